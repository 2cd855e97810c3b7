"""The training step: isolation of segments, packing, accumulation, sharding, rematerialization."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from livecc_jax.errors import ConfigError
from livecc_jax.model.attention import attend, use_backend
from livecc_jax.model.qwen2_vl import abstract_params, bind, init_params, logical_axes
from livecc_jax.model.remat import apply_remat
from livecc_jax.parallel.batch import ROW_AXES, shard_batch
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.train.config import ComputeConfig, OptimConfig
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import (
    abstract_state,
    check_trainable,
    init_opt_state,
    param_shardings,
    split_trainable,
)
from livecc_jax.train.step import gradients, jit_step, make_step
from tests.support.rows import MODEL, SHAPE, pack, random_segment, stack

COMPUTE = ComputeConfig(dtype="float32", remat="none", head_chunk=8)


@pytest.fixture(scope="module")
def params():
    # Weights large enough that every part of the network matters to the loss.
    return jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, init_params(MODEL, 0))


def segments(n, **kw):
    return [random_segment(np.random.default_rng(i), **kw) for i in range(n)]


def compute_gradients(params, batch, compute=COMPUTE):
    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    if batch["tokens"].ndim == 2:
        batch = {k: v[None] for k, v in batch.items()}
    return jax.jit(gradients, static_argnums=(0, 1))(MODEL, compute, params, batch)


def assert_close(a, b, rtol=2e-5):
    scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(a))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * scale), a, b)


@pytest.mark.parametrize("weighting", ["token", "example"])
@pytest.mark.parametrize("freeze", [("vision",), ()])
def test_packed_equals_unpacked(params, weighting, freeze):
    """Two examples of different lengths in one row: the loss and gradients of each alone, averaged."""
    compute = dataclasses.replace(COMPUTE, freeze=freeze)
    a, b = random_segment(np.random.default_rng(0)), random_segment(np.random.default_rng(1), text=9)
    packed, metrics = compute_gradients(params, pack([a, b], **SHAPE, weighting=weighting), compute)
    alone = [
        compute_gradients(params, pack([s], **SHAPE, weighting=weighting), compute) for s in (a, b)
    ]
    n = [int(s.supervised.sum()) for s in (a, b)]
    share = np.array(n) / sum(n) if weighting == "token" else np.array([0.5, 0.5])
    expected = jax.tree.map(lambda x, y: share[0] * x + share[1] * y, alone[0][0], alone[1][0])
    assert_close(expected, packed)
    losses = [float(m["loss"]) for _, m in alone]
    np.testing.assert_allclose(metrics["loss"], share @ losses, rtol=1e-6)


def test_nothing_crosses_segments_or_comes_from_the_future(params):
    """d hidden[t] / d embedding[s] is exactly zero for s > t and for s in another segment."""
    row = pack(segments(2), **SHAPE)
    model = bind(MODEL, params)
    tokens, ids = jnp.asarray(row["tokens"]), jnp.asarray(row["segment_ids"])
    embedded = model.embed(tokens, None, None)

    def hidden(x, t):
        return jnp.sum(model.text(x, jnp.asarray(row["positions"]), ids)[0, t] ** 2)

    length = int((row["segment_ids"] == 1).sum())
    for t in (length - 1, length, length + 7):
        grad = np.abs(jax.jit(jax.grad(hidden))(embedded, t)[0]).max(-1)
        allowed = (row["segment_ids"][0] == row["segment_ids"][0, t]) & (np.arange(len(grad)) <= t)
        assert (grad[~allowed] == 0).all()
        assert (grad[allowed] > 0).all()


def test_no_pixel_leaks_between_frame_pairs(params):
    """Two pairs share a window; the second's pixels leave the first's vectors bitwise alone."""
    row = pack([random_segment(np.random.default_rng(0), pairs=2)], **SHAPE)
    encode = jax.jit(
        lambda patches: bind(MODEL, params).encode_patches(
            patches, row["patch_pairs"], row["patch_rows"], row["patch_cols"]
        )
    )
    before = encode(row["patches"])
    changed = row["patches"].copy()
    changed[0, 0, 24:48] = 255 - changed[0, 0, 24:48]
    after = encode(changed)
    np.testing.assert_array_equal(before[0, :6], after[0, :6])
    assert np.abs(before[0, 6:12] - after[0, 6:12]).max() > 1e-3


def test_accumulation_equals_one_large_batch(params):
    rows = [pack(segments(1 + i % 2, text=3 + i), **SHAPE) for i in range(4)]
    large, a = compute_gradients(params, stack(*rows))
    accumulated, b = compute_gradients(params, {k: v[:, None] for k, v in stack(*rows).items()})
    assert_close(large, accumulated)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)


@pytest.mark.parametrize(("remat", "unroll"), [("full", False), ("dots", True)])
def test_remat_and_unroll_do_not_change_gradients(params, remat, unroll):
    batch = pack(segments(2), **SHAPE)
    plain, _ = compute_gradients(params, batch, dataclasses.replace(COMPUTE, freeze=()))
    compute = dataclasses.replace(COMPUTE, freeze=(), remat=remat, unroll=unroll)
    rematerialized, _ = compute_gradients(params, batch, compute)
    assert_close(plain, rematerialized)


@pytest.mark.parametrize(("remat", "times"), [("full", 2), ("attention", 1), ("dots", 1)])
def test_what_remat_stores_of_cudnn_attention(monkeypatch, remat, times):
    """The number of forward kernels in a step traced for a GPU: only `full` runs it again."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda *_: True)

    def body(x, w):
        q = (x @ w).reshape(1, 64, 4, 64)
        with use_backend("cudnn"):
            attended = attend(q, q, q, jnp.ones((1, 64), jnp.int32), causal=True)
        return attended.reshape(x.shape) @ w, None

    def loss(x, w):
        return jax.lax.scan(apply_remat(body, remat), x, w)[0].sum()

    x, w = jnp.ones((1, 64, 256), jnp.bfloat16), jnp.ones((2, 256, 256), jnp.bfloat16)
    traced = str(jax.make_jaxpr(jax.grad(loss, argnums=1))(x, w))
    assert traced.count("= dot_product_attention_fwd_wrapper") == times


def two_steps(params, mesh):
    rows = stack(*[pack(segments(2, text=2 + i), **SHAPE) for i in range(8)])
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, warmup_ratio=0.0), 10)
    # A copy, because the step donates it.
    sharded = jax.device_put(jax.tree.map(np.array, params), param_shardings(MODEL, mesh))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), sharded
    )
    abstract = abstract_state(shapes, optimizer, COMPUTE.freeze, mesh)
    opt_state = init_opt_state(optimizer, abstract, COMPUTE.freeze)(sharded)
    state = {"params": sharded, "opt_state": opt_state}
    with jax.set_mesh(mesh):
        batch = shard_batch(mesh, rows, 1)
        step = jit_step(make_step(MODEL, COMPUTE, optimizer), state).lower(state, batch).compile()
        shardings = jax.tree.map(lambda x: x.sharding, state)
        assert jax.tree.all(jax.tree.map(lambda a, b: a == b, step.output_shardings[0], shardings))
        for _ in range(2):
            state, metrics = step(state, batch)
    return state["params"], metrics


@pytest.fixture(scope="module")
def one_device(params):
    return two_steps(params, make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]))


@pytest.mark.parametrize(
    "mesh_config",
    [
        MeshConfig(fsdp=8),
        MeshConfig(data=2, fsdp=2, context=2, tensor=1),
    ],
    ids=["fsdp8", "data2-fsdp2-context2"],
)
def test_sharded_equals_one_device(params, one_device, mesh_config):
    """Through the optimiser. (Gradients over every axis, and tensor too: tests/parallel.)"""
    expected, one = one_device
    sharded, many = two_steps(params, make_mesh(mesh_config))
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-5)
    np.testing.assert_allclose(one["grad_norm"], many["grad_norm"], rtol=1e-4)
    # Adam's first steps are lr * sign(gradient): a gradient near zero may round to either side.
    differences = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)), expected, sharded)
    flat = np.concatenate([x.ravel() for x in jax.tree.leaves(differences)])
    assert np.mean(flat > 1e-5) < 1e-3
    assert flat.max() <= 4e-3


def test_every_parameter_is_sharded_over_the_mesh():
    """No matrix is silently replicated, and every field of a row has logical axes."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    shardings, _ = split_trainable(param_shardings(MODEL, mesh), ())
    for path, sharding in shardings.items():
        replicated = sharding.is_fully_replicated
        assert replicated == path.endswith(
            ("norm", "scale", "norm/bias", "norm1/bias", "norm2/bias")
        ), path
    assert set(ROW_AXES) == set(pack(segments(1), **SHAPE))
    axes, shapes = logical_axes(MODEL), abstract_params(MODEL)
    jax.tree.map(lambda a, s: None, axes, shapes, is_leaf=lambda x: isinstance(x, tuple))


def test_frozen_parameters_stay_and_have_no_optimizer_state(params):
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, warmup_ratio=0.0), 10)
    state = {"params": params, "opt_state": optimizer.init(split_trainable(params, ("vision",))[0])}
    batch = {k: jnp.asarray(v)[None] for k, v in pack(segments(2), **SHAPE).items()}
    after, _ = jax.jit(make_step(MODEL, COMPUTE, optimizer))(state, batch)
    jax.tree.map(np.testing.assert_array_equal, params["vision"], after["params"]["vision"])
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), params["text"], after["params"]["text"])
    assert all(jax.tree.leaves(changed))
    paths = [str(p) for p, _ in jax.tree_util.tree_leaves_with_path(after["opt_state"])]
    assert paths
    assert not any("vision" in path for path in paths)


def test_freeze_and_mesh_errors_name_the_field():
    with pytest.raises(ConfigError, match=r"compute\.freeze names 'visoin'"):
        check_trainable(MODEL, ComputeConfig(freeze=("visoin",)))
    with pytest.raises(ConfigError, match=r"mesh\.fsdp=3"):
        make_mesh(MeshConfig(fsdp=3))
    with pytest.raises(ConfigError, match=r"text\.kv_heads is 2, .* mesh\.tensor = 4"):
        param_shardings(MODEL, make_mesh(MeshConfig(tensor=4)))


def test_golden_step(params):
    """The metrics of two steps equal recorded ones.

    A difference is not necessarily a bug, but it changes what every run computes. If it is intended,
    record the new numbers and give the reason in the commit.
    """
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, warmup_ratio=0.0), 10)
    state = {"params": params, "opt_state": optimizer.init(split_trainable(params, COMPUTE.freeze)[0])}
    batch = {k: jnp.asarray(v)[None] for k, v in pack(segments(2), **SHAPE).items()}
    step = jax.jit(make_step(MODEL, COMPUTE, optimizer))
    state, first = step(state, batch)
    _, second = step(state, batch)
    values = [
        float(x)
        for x in (
            first["loss"],
            first["grad_norm"],
            second["loss"],
            optax.global_norm(split_trainable(state["params"], ())[0]),
        )
    ]
    np.testing.assert_allclose(values, GOLDEN, rtol=2e-5, err_msg="the step computes something else")


GOLDEN = [4.915954, 10.487286, 4.071728, 64.275986]
