"""Every way to compute attention against the definition, values and gradients, over packed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn_call
from jax.sharding import AbstractDevice, AbstractMesh

from livecc_jax.errors import ConfigError
from livecc_jax.model import attention_cudnn
from livecc_jax.model.attention import attend, backend_for, use_backend
from livecc_jax.model.attention_layout import Layout, layout_in_scope
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh

MESHES = {
    "": None,
    "all": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    "context": MeshConfig(fsdp=1, context=8),
}


def packed(rows, length, heads, kv_heads, width, segments=3):
    """Random arrays; each row holds `segments` segments of random lengths, then padding."""
    rng = np.random.default_rng(length)
    q, k, v = (
        jnp.asarray(rng.normal(size=(rows, length, n, width)), jnp.float32)
        for n in (heads, kv_heads, kv_heads)
    )
    ids = np.zeros((rows, length), np.int32)
    for row in ids:
        stops = np.sort(rng.choice(np.arange(1, length - 2), segments, replace=False))
        row[: stops[-1]] = 1 + np.searchsorted(stops, np.arange(stops[-1]), side="right")
    return q, k, v, jnp.asarray(ids)


def defined(q, k, v, ids, causal):
    """Attention as it is written down: every score, a mask, a softmax."""
    times = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, times, 2), jnp.repeat(v, times, 2)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
    seen = ids[:, None, :, None] == ids[:, None, None, :]
    if causal:
        seen &= jnp.tril(jnp.ones(seen.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def with_gradients(f, q, k, v):
    """f(q, k, v) and the gradients of a sum in which every output weighs differently."""

    def loss(q, k, v):
        out = f(q, k, v)
        return jnp.sum(jnp.sin(jnp.arange(out.size)).reshape(out.shape) * out), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


def check(name, mesh, q, k, v, ids, causal, axes=("batch", "length")):
    def ours(q, k, v):
        with use_backend(name):
            return attend(q, k, v, ids, causal=causal, axes=axes)

    want = with_gradients(lambda q, k, v: defined(q, k, v, ids, causal), q, k, v)
    with jax.set_mesh(make_mesh(mesh or MeshConfig(devices=1))):
        got = with_gradients(ours, q, k, v)
    for a, b in zip(want, got):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "mesh", "length", "causal"),
    [
        ("xla", "", 1101, True),  # longer than two blocks of queries, and no multiple of one
        ("xla", "all", 301, True),
        ("xla", "context", 301, True),
        ("splash", "", 300, True),
        ("splash", "all", 700, True),
    ],
)
def test_text(name, mesh, length, causal):
    """Grouped heads, causal, three segments and padding; 301 divides over no mesh axis."""
    check(name, MESHES[mesh], *packed(2, length, 4, 2, 16), causal)


@pytest.mark.parametrize(("name", "mesh"), [("xla", "all"), ("splash", "all")])
def test_vision_windows(name, mesh):
    """Dense within frame pairs; the windows themselves are what the mesh splits, context included."""
    x = packed(4, 150, 2, 2, 80)
    check(name, MESHES[mesh], *x, causal=False, axes=("flat_windows", None))


@pytest.fixture
def ragged_calls(monkeypatch):
    """cuDNN's packed form by its documentation: rows of segments, each from an offset, each of a
    length, -1 where there is none, with what no segment covers left undefined (here NaN)."""
    calls = []

    def stand_in(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type):
        calls.append(q_seqlen.shape)
        assert q_offsets.shape == (q.shape[0], q_seqlen.shape[1] + 1)
        places = jnp.arange(q.shape[1])

        def owner(starts, lengths):
            inside = (places >= starts[:-1, None]) & (places < (starts[:-1] + lengths)[:, None])
            inside &= starts[:-1, None] >= 0
            return jnp.where(inside.any(0), inside.argmax(0), -1)

        ids = jax.vmap(owner)(q_offsets, q_seqlen)
        causal = mask_type == cudnn_call.MaskType.PADDING_CAUSAL
        out = defined(q * scale * np.sqrt(q.shape[-1]), k, v, ids, causal)
        return jnp.where((ids >= 0)[..., None, None], out, jnp.nan)

    monkeypatch.setattr(cudnn_call, "dot_product_attention", stand_in)
    return calls


@pytest.mark.parametrize(
    ("mesh", "causal", "segments"), [("", True, 5), ("", False, 3), ("", False, 20), ("all", True, 4)]
)
def test_cudnn_is_asked_for_the_segments_that_are_there(ragged_calls, mesh, causal, segments):
    """Twenty segments are more than a vision window may have: those rows go another way."""
    check("cudnn", MESHES[mesh], *packed(2, 120, 4, 2, 16, segments), causal)
    most = attention_cudnn.MAX_SEGMENTS if causal else attention_cudnn.NARROW_SEGMENTS
    rows = 1 if mesh else 2
    assert set(ragged_calls) == {(rows, most)}


@pytest.mark.parametrize(
    ("mesh", "local"),
    [
        (MeshConfig(fsdp=2, devices=2), "1x256x12x128xbf16"),
        (MeshConfig(fsdp=1, context=2, devices=2), "2x256x6x128xbf16"),  # heads in place of tokens
        (MeshConfig(fsdp=1, tensor=2, devices=2), "2x256x6x128xbf16"),
    ],
    ids=["fsdp", "context", "tensor"],
)
def test_cudnn_is_what_a_mesh_of_gpus_runs(monkeypatch, mesh, local):
    """A step's attention lowered for CUDA: cuDNN's own kernels, forward and backward, on each share."""
    monkeypatch.setattr(cudnn_call, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(cudnn_call, "check_compute_capability", lambda *_: True)

    def loss(q, k, v, ids):
        with use_backend("cudnn"):
            return attend(q, k, v, ids, causal=True).astype(jnp.float32).sum()

    q, k = (jax.ShapeDtypeStruct((2, 256, heads, 128), jnp.bfloat16) for heads in (12, 2))
    ids = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    with jax.set_mesh(make_mesh(mesh)):
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k, ids)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "custom_call @__cudnn$fmha" in line]
    assert len(calls) == 2
    assert all(f"tensor<{local}>" in line for line in calls)


def test_the_device_compiled_for_decides():
    q, k, *_ = packed(1, 64, 4, 2, 16)
    assert backend_for(layout_in_scope(("batch", "length")), q, k) == "xla"
    for platform, backend in (("tpu", "splash"), ("gpu", "xla"), ("cpu", "xla")):
        mesh = AbstractMesh(
            (1, 4, 1, 1),
            AXES,
            axis_types=(jax.sharding.AxisType.Auto,) * 4,
            abstract_device=AbstractDevice("some kind", None, platform),
        )
        with jax.sharding.use_abstract_mesh(mesh):
            layout = layout_in_scope(("batch", "length"))
            assert layout.platform == platform
            assert backend_for(layout, q, k) == backend  # no bfloat16 here, so no cuDNN
            with use_backend("xla"):
                assert backend_for(layout, q, k) == "xla"


def test_cudnn_is_for_what_it_can_do(monkeypatch):
    monkeypatch.setattr(attention_cudnn, "gpu_capability", lambda: 9.0)
    layout = Layout(None, "gpu")

    def asked(*shape, dtype=jnp.bfloat16):
        q = jax.ShapeDtypeStruct(shape, dtype)
        return backend_for(layout, q, q)

    assert asked(1, 32768, 28, 128) == "cudnn"
    assert asked(96, 1536, 16, 80) == "cudnn"
    assert asked(1, 32768, 28, 128, dtype=jnp.float32) == "xla"
    assert asked(1, 64, 4, 12) == "xla"  # heads in eights
    assert asked(32, 32768, 28, 128) == "xla"  # offsets of the last row would not fit int32
    monkeypatch.setattr(attention_cudnn, "gpu_capability", lambda: 8.0)
    assert asked(1, 32768, 28, 128) == "xla"


def test_what_does_not_divide_is_refused_by_name():
    with (
        jax.set_mesh(make_mesh(MeshConfig(fsdp=8))),
        pytest.raises(ConfigError, match=r"2 rows does not divide over mesh\.data x mesh\.fsdp = 8"),
    ):
        attend(*packed(2, 64, 4, 2, 16), causal=True)
    with (
        pytest.raises(ConfigError, match="attention backend 'flash' is not one of"),
        use_backend("flash"),
    ):
        pass
