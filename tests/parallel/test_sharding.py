"""Where everything lives on a mesh, and that a mesh changes nothing but where."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from livecc_jax.errors import ConfigError
from livecc_jax.model import decoder, qwen2_vl
from livecc_jax.model.presets import PRESETS, preset
from livecc_jax.model.qwen2_vl import abstract_params, bind, init_params
from livecc_jax.model.remat import REMAT_POLICIES, apply_remat
from livecc_jax.parallel.batch import ROW_AXES, check_batch_divides, shard_batch
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh
from livecc_jax.train.config import ComputeConfig, OptimConfig
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import abstract_state, init_opt_state, param_shardings, split_trainable
from livecc_jax.train.step import gradients
from tests.support.rows import VOCAB, pack, random_segment, stack

TINY = preset("tiny")
MODEL = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=VOCAB))
COMPUTE = ComputeConfig(dtype="float32", remat="none", head_chunk=40)
WANTED_EVERYWHERE = ("norm", "scale", "norm/bias", "norm1/bias", "norm2/bias")


def test_every_parameter_and_slot_is_split_where_it_is():
    """After a real initialisation: each device holds its share of every matrix and of both its moments,
    and nothing is whole on every device but norms and counters."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    shardings = param_shardings(MODEL, mesh)
    params = jax.jit(init_params, static_argnums=(0, 1), out_shardings=shardings)(MODEL, 0)
    optimizer = make_optimizer(OptimConfig(), 10)
    described = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
    )
    slots = init_opt_state(optimizer, abstract_state(described, optimizer, (), mesh), ())(params)
    flat, _ = split_trainable(params, ())
    moments = [
        (path[-1].key, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(slots)
        if leaf.ndim  # counters are numbers
    ]
    assert len(moments) == 2 * len(flat)
    for path, leaf in [*flat.items(), *moments]:
        held = sum(shard.data.size for shard in leaf.addressable_shards)
        if path.endswith(WANTED_EVERYWHERE):
            assert held == 8 * leaf.size, path
        else:
            # Split at least over tensor or over fsdp; every matrix (two axes or more) over fsdp.
            assert held <= (4 if path.endswith("bias") else 2) * leaf.size, path
        assert leaf.sharding.is_equivalent_to(flat[path].sharding, leaf.ndim), path


@pytest.mark.parametrize("size", ["2b", "7b", "72b"])
def test_published_sizes_leave_little_on_every_device(size):
    """On 64 devices, what is not split is under a thousandth of the network."""
    mesh = AbstractMesh((1, 32, 1, 2), AXES)
    shapes, _ = split_trainable(abstract_params(PRESETS[size]), ())
    places, _ = split_trainable(param_shardings(PRESETS[size], mesh), ())
    whole = sum(x.size for k, x in shapes.items() if places[k].shard_shape(x.shape) == x.shape)
    assert whole < 1e-3 * sum(x.size for x in shapes.values())


def losses(mesh, rows):
    """Loss and gradients of two rows on a mesh."""
    params = jax.jit(init_params, static_argnums=(0, 1))(MODEL, 0)
    params = jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, params)
    params = jax.device_put(params, param_shardings(MODEL, mesh))
    with jax.set_mesh(mesh):
        grads, metrics = jax.jit(gradients, static_argnums=(0, 1))(
            MODEL, COMPUTE, params, shard_batch(mesh, rows, 1)
        )
    return jax.device_get(metrics), jax.device_get(grads)


def test_context_parallel_at_lengths_that_do_not_divide():
    """101 tokens and five windows over four devices: loss and gradients of two rows are those of one
    device. (Each backend alone, at such lengths too: tests/model/test_attention.py.)"""
    shape = {"tokens": 101, "windows": 5, "patches": 48, "targets": 40}
    rows = stack(
        *[pack([random_segment(np.random.default_rng(i), text=3 + i)], **shape) for i in range(2)]
    )
    one, expected = losses(make_mesh(MeshConfig(devices=1)), rows)
    many, grads = losses(make_mesh(MeshConfig(fsdp=1, context=4, tensor=1, devices=4)), rows)
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-5)
    assert one["tokens"] == many["tokens"]
    for path, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(value, grads[path], rtol=1e-3, atol=2e-4 * scale, err_msg=path)


@pytest.fixture(scope="module")
def eight_rows():
    """Eight rows and their loss and gradients on one device."""
    shape = {"tokens": 96, "windows": 4, "patches": 48, "targets": 40}
    rows = [pack([random_segment(np.random.default_rng(i), text=3 + i)], **shape) for i in range(8)]
    rows = stack(*rows)
    return rows, losses(make_mesh(MeshConfig(devices=1)), rows)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=8, fsdp=1),
        MeshConfig(fsdp=1, tensor=2, devices=2),
        MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    ],
    ids=["data8", "tensor2", "fsdp2-context2-tensor2"],
)
def test_loss_and_gradients_are_one_devices(eight_rows, mesh):
    """(fsdp alone and data with the others, through the optimiser too: tests/train/test_step.py;
    context alone: the test above.)"""
    rows, (one, expected) = eight_rows
    many, grads = losses(make_mesh(mesh), rows)
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-5)
    np.testing.assert_allclose(one["grad_norm"], many["grad_norm"], rtol=1e-5)
    for path, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(value, grads[path], rtol=1e-3, atol=2e-4 * scale, err_msg=path)


def test_no_activation_is_whole_on_every_device(eight_rows, monkeypatch):
    """What the compiled forward pass makes of its places: embedded tokens and every layer's output are
    split over rows and context, the windows of the tower over both as one axis; so are the rows."""
    seen = {}

    def watched(module):
        constrain = module.constrain

        def inner(x, *axes):
            x = constrain(x, *axes)

            def tell(sharding, axes=axes, shape=x.shape):
                seen.setdefault((module.__name__.split(".")[-1], axes[0], len(shape)), []).append(
                    np.prod(shape) / np.prod(sharding.shard_shape(shape))
                )

            jax.debug.inspect_array_sharding(x, callback=tell)
            return x

        monkeypatch.setattr(module, "constrain", inner)

    watched(decoder)
    watched(qwen2_vl)
    rows, _ = eight_rows
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    batch = shard_batch(mesh, rows, 1)
    for name, x in batch.items():
        parts = x.size / np.prod(x.sharding.shard_shape(x.shape))
        assert parts == (8 if {"length", "windows"} & set(ROW_AXES[name]) else 4), name
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract_params(MODEL),
        param_shardings(MODEL, mesh),
    )
    with jax.set_mesh(mesh):
        forward = jax.jit(
            lambda p, r: bind(MODEL, p).hidden_states(jax.tree.map(lambda x: x[0], r), "full")
        )
        out = forward.lower(params, batch).compile().output_shardings
    assert np.prod(out.shard_shape((8, 96, 64))) == 96 * 64  # eight rows over eight devices' worth
    assert {k[:2] for k in seen} == {
        ("decoder", "batch"),  # what each layer gives
        ("qwen2_vl", "flat_windows"),  # patches on their way through the tower
        ("qwen2_vl", "batch"),  # merged patches, embedded tokens
    }
    assert {parts for found in seen.values() for parts in found} == {8.0}


def test_padding_a_batch_changes_no_real_place():
    rows = pack([random_segment(np.random.default_rng(0))], 99, 5, 48, 40)
    placed = jax.device_get(shard_batch(make_mesh(MeshConfig(fsdp=1, context=8)), rows, 1))
    assert placed["tokens"].shape == (1, 1, 104)
    assert placed["patches"].shape == (1, 1, 8, 48, 1176)
    for name, value in rows.items():
        inner = placed[name][0][tuple(slice(n) for n in value.shape)]
        np.testing.assert_array_equal(inner, value)
    assert (placed["vision_index"][0, 0, 99:] == -1).all()
    assert (placed["segment_ids"][0, 0, 99:] == 0).all()
    assert set(rows) == set(ROW_AXES)


def test_batches_that_do_not_divide_are_refused_by_field():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_batch_divides(mesh, 8)
    with pytest.raises(
        ConfigError,
        match=r"data\.rows_per_step / optim\.accumulate is 6, .* mesh\.data x mesh\.fsdp = 4",
    ):
        check_batch_divides(mesh, 6)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_remat_policies_recompute_what_they_say(remat):
    """The same gradients; counted in the program, forward products run once or again."""
    weights = jax.random.normal(jax.random.key(0), (3, 16, 16)) / 4

    def loss(weights, x):
        body = apply_remat(lambda x, w: (jax.numpy.sin(x @ w), None), remat)
        return jax.numpy.sum(jax.lax.scan(body, x, weights)[0])

    x = jax.random.normal(jax.random.key(1), (4, 16))
    expected = jax.grad(lambda w, x: loss_plain(w, x))(weights, x)
    grad = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(grad(weights, x), expected, rtol=1e-4, atol=1e-6)
    text = str(jax.make_jaxpr(jax.grad(loss))(weights, x))
    forward = {"none": 1, "dots": 1}.get(remat, 2)
    assert text.count("dot_general") == forward + 2
    assert ("pinned_host" in text or "<host>" in text) == (remat == "offload")


def loss_plain(weights, x):
    for w in weights:
        x = jax.numpy.sin(x @ w)
    return jax.numpy.sum(x)
