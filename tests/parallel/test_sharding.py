"""Sharding: how parameters, optimizer state and activations are split, with unchanged results."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from livecc_jax.errors import ConfigError
from livecc_jax.model.presets import PRESETS, preset
from livecc_jax.model.qwen2_vl import abstract_params, bind, init_params
from livecc_jax.model.remat import REMAT_POLICIES, apply_remat
from livecc_jax.parallel.batch import ROW_AXES, check_batch_divides, shard_batch
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh
from livecc_jax.train.config import ComputeConfig, OptimConfig
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import abstract_state, init_opt_state, param_shardings, split_trainable
from livecc_jax.train.step import gradients
from tests.support.jaxprs import inner_jaxprs
from tests.support.rows import VOCAB, pack, random_segment, stack

TINY = preset("tiny")
MODEL = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=VOCAB))
COMPUTE = ComputeConfig(dtype="float32", remat="none", head_chunk=40)
REPLICATED = ("norm", "scale", "norm/bias", "norm1/bias", "norm2/bias")


def test_optimizer_state_is_sharded_as_its_parameters():
    """After initialization each device has a shard of every matrix and of both its moments; only norms
    and counters are replicated."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    shardings = param_shardings(MODEL, mesh)
    params = jax.jit(init_params, static_argnums=(0, 1), out_shardings=shardings)(MODEL, 0)
    optimizer = make_optimizer(OptimConfig(), 10)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
    )
    opt_state = init_opt_state(optimizer, abstract_state(abstract, optimizer, (), mesh), ())(params)
    flat, _ = split_trainable(params, ())
    moments = [
        (path[-1].key, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
        if leaf.ndim  # counters are numbers
    ]
    assert len(moments) == 2 * len(flat)
    for path, leaf in [*flat.items(), *moments]:
        on_devices = sum(shard.data.size for shard in leaf.addressable_shards)
        if path.endswith(REPLICATED):
            assert on_devices == 8 * leaf.size, path
        else:
            # Sharded at least over tensor or fsdp; every matrix (two axes or more) over fsdp.
            assert on_devices <= (4 if path.endswith("bias") else 2) * leaf.size, path
        assert leaf.sharding.is_equivalent_to(flat[path].sharding, leaf.ndim), path


@pytest.mark.parametrize("size", ["2b", "7b", "72b"])
def test_little_of_the_published_sizes_is_replicated(size):
    """On 64 devices less than a thousandth of the parameters is not sharded."""
    mesh = AbstractMesh((1, 32, 1, 2), AXES)
    shapes, _ = split_trainable(abstract_params(PRESETS[size]), ())
    shardings, _ = split_trainable(param_shardings(PRESETS[size], mesh), ())
    replicated = sum(x.size for k, x in shapes.items() if shardings[k].shard_shape(x.shape) == x.shape)
    assert replicated < 1e-3 * sum(x.size for x in shapes.values())


def loss_and_gradients(mesh, rows):
    """Metrics and gradients of rows on a mesh."""
    params = jax.jit(init_params, static_argnums=(0, 1))(MODEL, 0)
    params = jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, params)
    params = jax.device_put(params, param_shardings(MODEL, mesh))
    with jax.set_mesh(mesh):
        grads, metrics = jax.jit(gradients, static_argnums=(0, 1))(
            MODEL, COMPUTE, params, shard_batch(mesh, rows, 1)
        )
    return jax.device_get(metrics), jax.device_get(grads)


def test_context_parallel_at_lengths_that_do_not_divide():
    """101 tokens and five windows over four devices: loss and gradients of two rows equal those on one
    device. (Each attention backend by itself: tests/model/test_attention.py.)"""
    shape = {"tokens": 101, "windows": 5, "patches": 48, "targets": 40}
    rows = stack(
        *[pack([random_segment(np.random.default_rng(i), text=3 + i)], **shape) for i in range(2)]
    )
    one, expected = loss_and_gradients(make_mesh(MeshConfig(devices=1)), rows)
    many, grads = loss_and_gradients(
        make_mesh(MeshConfig(fsdp=1, context=4, tensor=1, devices=4)), rows
    )
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
    return rows, loss_and_gradients(make_mesh(MeshConfig(devices=1)), rows)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=8, fsdp=1),
        MeshConfig(fsdp=1, tensor=2, devices=2),
        MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    ],
    ids=["data8", "tensor2", "fsdp2-context2-tensor2"],
)
def test_loss_and_gradients_equal_those_on_one_device(eight_rows, mesh):
    """(fsdp alone and data with the others, through the optimiser too: tests/train/test_step.py;
    context alone: the test above.)"""
    rows, (one, expected) = eight_rows
    many, grads = loss_and_gradients(make_mesh(mesh), rows)
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-5)
    np.testing.assert_allclose(one["grad_norm"], many["grad_norm"], rtol=1e-5)
    for path, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(value, grads[path], rtol=1e-3, atol=2e-4 * scale, err_msg=path)


def sharding_constraints(jaxpr, in_scan=False):
    """(inside a scan, shape, sharding) of every sharding constraint of a jaxpr."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "sharding_constraint":
            yield in_scan, eqn.outvars[0].aval.shape, eqn.params["sharding"]
        for inner in inner_jaxprs(eqn):
            yield from sharding_constraints(inner, in_scan or eqn.primitive.name == "scan")


def test_no_activation_is_replicated(eight_rows):
    """Rows and activations are split over all eight devices: embedded tokens and the output of every
    layer over batch and context, windows over both as one axis. The compiled program has none in full.
    """
    rows, _ = eight_rows
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    batch = shard_batch(mesh, rows, 1)
    for name, x in batch.items():
        shards = x.size / np.prod(x.sharding.shard_shape(x.shape))
        assert shards == (8 if {"length", "windows"} & set(ROW_AXES[name]) else 4), name
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract_params(MODEL),
        param_shardings(MODEL, mesh),
    )
    with jax.set_mesh(mesh):
        forward = jax.jit(
            lambda p, r: bind(MODEL, p).hidden_states(jax.tree.map(lambda x: x[0], r), "full")
        )
        traced = forward.trace(params, batch)
        compiled = traced.lower().compile()
    assert compiled.output_shardings.shard_shape((8, 96, 64)) == (2, 48, 64)
    text = compiled.as_text()
    specs = set()
    for in_scan, shape, sharding in sharding_constraints(traced.jaxpr.jaxpr):
        local = sharding.shard_shape(shape)
        assert np.prod(shape) == 8 * np.prod(local), (shape, sharding)
        assert f"[{','.join(map(str, local))}]" in text, local
        assert f"[{','.join(map(str, shape))}]" not in text, shape
        specs.add((in_scan, sharding.spec[:2]))
    batch_axes = ("data", "fsdp")
    assert (True, (batch_axes, "context")) in specs  # the output of each layer
    assert (False, (batch_axes, "context")) in specs  # merged patches, embedded tokens
    assert (False, ((*batch_axes, "context"), None)) in specs  # patches in the tower


def test_padding_a_batch_keeps_its_values():
    rows = pack([random_segment(np.random.default_rng(0))], 99, 5, 48, 40)
    padded = jax.device_get(shard_batch(make_mesh(MeshConfig(fsdp=1, context=8)), rows, 1))
    assert padded["tokens"].shape == (1, 1, 104)
    assert padded["patches"].shape == (1, 1, 8, 48, 1176)
    for name, value in rows.items():
        inner = padded[name][0][tuple(slice(n) for n in value.shape)]
        np.testing.assert_array_equal(inner, value)
    assert (padded["vision_index"][0, 0, 99:] == -1).all()
    assert (padded["segment_ids"][0, 0, 99:] == 0).all()
    assert set(rows) == set(ROW_AXES)


def test_batches_that_do_not_divide_are_refused():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_batch_divides(mesh, 8)
    with pytest.raises(
        ConfigError,
        match=r"data\.rows_per_step / optim\.accumulate is 6, .* mesh\.data x mesh\.fsdp = 4",
    ):
        check_batch_divides(mesh, 6)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_remat_policies_recompute_as_documented(remat):
    """The same gradients; in the program, forward matrix products are there once or twice."""
    weights = jax.random.normal(jax.random.key(0), (3, 16, 16)) / 4

    def loss(weights, x):
        body = apply_remat(lambda x, w: (jax.numpy.sin(x @ w), None), remat)
        return jax.numpy.sum(jax.lax.scan(body, x, weights)[0])

    x = jax.random.normal(jax.random.key(1), (4, 16))
    expected = jax.grad(unrolled_loss)(weights, x)
    grad = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(grad(weights, x), expected, rtol=1e-4, atol=1e-6)
    text = str(jax.make_jaxpr(jax.grad(loss))(weights, x))
    forward = {"none": 1, "dots": 1}.get(remat, 2)
    assert text.count("dot_general") == forward + 2
    assert ("pinned_host" in text or "<host>" in text) == (remat == "offload")


def unrolled_loss(weights, x):
    for w in weights:
        x = jax.numpy.sin(x @ w)
    return jax.numpy.sum(x)
