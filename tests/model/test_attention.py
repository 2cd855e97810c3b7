"""Every attention backend against the definition, values and gradients, over packed rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn
from jax.sharding import AbstractDevice, AbstractMesh

from livecc_jax.errors import ConfigError
from livecc_jax.model import attention_cudnn
from livecc_jax.model.attention import attend, backend_for, use_backend
from livecc_jax.model.attention_layout import layout_in_scope
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh

MESHES = {
    "": None,
    "all": MeshConfig(data=1, fsdp=2, context=2, tensor=2),
    "context": MeshConfig(fsdp=1, context=8),
}


def packed_arrays(batch, length, heads, kv_heads, head_dim, segments=3):
    """Random q, k, v and ids of `segments` segments a row, of random lengths, followed by padding."""
    rng = np.random.default_rng(length)
    q, k, v = (
        jnp.asarray(rng.normal(size=(batch, length, n, head_dim)), jnp.float32)
        for n in (heads, kv_heads, kv_heads)
    )
    ids = np.zeros((batch, length), np.int32)
    for row in ids:
        stops = np.sort(rng.choice(np.arange(1, length - 2), segments, replace=False))
        row[: stops[-1]] = 1 + np.searchsorted(stops, np.arange(stops[-1]), side="right")
    return q, k, v, jnp.asarray(ids)


def defined_attention(q, k, v, ids, causal):
    """Attention by its definition: every score, a mask, a softmax."""
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, 2), jnp.repeat(v, group, 2)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
    mask = ids[:, None, :, None] == ids[:, None, None, :]
    if causal:
        mask &= jnp.tril(jnp.ones(mask.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def value_and_gradients(f, q, k, v):
    """f(q, k, v), and the gradients of a sum in which every output has another weight."""

    def loss(q, k, v):
        out = f(q, k, v)
        return jnp.sum(jnp.sin(jnp.arange(out.size)).reshape(out.shape) * out), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


def check_against_definition(attention, mesh, q, k, v, ids, causal):
    """Compares values and gradients of attention(q, k, v) over a mesh with the definition's."""
    expected = value_and_gradients(lambda q, k, v: defined_attention(q, k, v, ids, causal), q, k, v)
    with jax.set_mesh(make_mesh(mesh or MeshConfig(devices=1))):
        actual = value_and_gradients(attention, q, k, v)
    for a, b in zip(expected, actual):
        np.testing.assert_allclose(a, b, atol=2e-5)


def check_backend(name, mesh, q, k, v, ids, causal, axes=("batch", "length")):
    def attention(q, k, v):
        with use_backend(name):
            return attend(q, k, v, ids, causal=causal, axes=axes)

    check_against_definition(attention, mesh, q, k, v, ids, causal)


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
    check_backend(name, MESHES[mesh], *packed_arrays(2, length, 4, 2, 16), causal)


@pytest.mark.parametrize(("name", "mesh"), [("xla", "all"), ("splash", "all")])
def test_vision_windows(name, mesh):
    """Dense within frame pairs; the mesh splits the windows themselves, over context too."""
    arrays = packed_arrays(4, 150, 2, 2, 80)
    check_backend(name, MESHES[mesh], *arrays, causal=False, axes=("flat_windows", None))


def documented_ragged_attention(
    calls, q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type
):
    """cuDNN's packed form by its documentation.

    Each segment of a row has an offset and a length, -1 where there is none. What no segment covers is
    undefined, here NaN. The shape of the lengths is appended to `calls`.
    """
    calls.append(q_seqlen.shape)
    assert q_offsets.shape == (q.shape[0], q_seqlen.shape[1] + 1)
    slots = jnp.arange(q.shape[1])

    def segment_of_slot(starts, lengths):
        inside = (slots >= starts[:-1, None]) & (slots < (starts[:-1] + lengths)[:, None])
        inside &= starts[:-1, None] >= 0
        return jnp.where(inside.any(0), inside.argmax(0), -1)

    ids = jax.vmap(segment_of_slot)(q_offsets, q_seqlen)
    causal = mask_type == jax_cudnn.MaskType.PADDING_CAUSAL
    out = defined_attention(q * scale * np.sqrt(q.shape[-1]), k, v, ids, causal)
    return jnp.where((ids >= 0)[..., None, None], out, jnp.nan)


@pytest.mark.parametrize(
    ("mesh", "causal", "segments"), [("", True, 5), ("", False, 3), ("", False, 20), ("all", True, 4)]
)
def test_cudnn_gets_the_segments_of_each_row(mesh, causal, segments):
    """Twenty segments are more than a vision window may have: those rows use plain XLA."""
    q, k, v, ids = packed_arrays(2, 120, 4, 2, 16, segments)
    calls = []
    ragged_attention = functools.partial(documented_ragged_attention, calls)

    def attention(q, k, v):
        layout = layout_in_scope(("batch", "length"))
        return attention_cudnn.attend(
            q, k, v, ids, layout, causal=causal, ragged_attention=ragged_attention
        )

    check_against_definition(attention, MESHES[mesh], q, k, v, ids, causal)
    max_segments = attention_cudnn.MAX_SEGMENTS if causal else attention_cudnn.MAX_WINDOW_SEGMENTS
    rows = 1 if mesh else 2
    assert set(calls) == {(rows, max_segments)}


@pytest.mark.parametrize(
    ("mesh", "local"),
    [
        (MeshConfig(fsdp=2, devices=2), "1x256x12x128xbf16"),
        (MeshConfig(fsdp=1, context=2, devices=2), "2x256x6x128xbf16"),  # heads in place of tokens
        (MeshConfig(fsdp=1, tensor=2, devices=2), "2x256x6x128xbf16"),
    ],
    ids=["fsdp", "context", "tensor"],
)
def test_a_mesh_of_gpus_runs_cudnn(monkeypatch, mesh, local):
    """A step's attention lowered for CUDA: cuDNN's kernels, forward and backward, on each shard."""
    # JAX asks the machine for cuDNN even when it only lowers.
    monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(jax_cudnn, "check_compute_capability", lambda *_: True)

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


def test_the_platform_that_is_compiled_for_decides():
    q, k, *_ = packed_arrays(1, 64, 4, 2, 16)
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


def test_cudnn_serves_what_it_can_compute():
    def backend_on(gpu, *shape, dtype=jnp.bfloat16):
        q = jax.ShapeDtypeStruct(shape, dtype)
        mesh = AbstractMesh((), (), abstract_device=AbstractDevice(gpu, None, "gpu"))
        with jax.sharding.use_abstract_mesh(mesh):
            return backend_for(layout_in_scope(("batch", "length")), q, q)

    hopper = functools.partial(backend_on, "NVIDIA H100 80GB HBM3")
    assert hopper(1, 32768, 28, 128) == "cudnn"
    assert hopper(96, 1536, 16, 80) == "cudnn"
    assert hopper(1, 32768, 28, 128, dtype=jnp.float32) == "xla"
    assert hopper(1, 64, 4, 12) == "xla"  # the head dimension must be a multiple of 8
    assert hopper(32, 32768, 28, 128) == "xla"  # offsets of the last row would not fit int32
    assert backend_on("NVIDIA A100 80GB PCIe", 1, 32768, 28, 128) == "xla"


def test_shapes_that_do_not_divide_are_refused_by_name():
    with (
        jax.set_mesh(make_mesh(MeshConfig(fsdp=8))),
        pytest.raises(ConfigError, match=r"2 rows does not divide over mesh\.data x mesh\.fsdp = 8"),
    ):
        attend(*packed_arrays(2, 64, 4, 2, 16), causal=True)
    with (
        pytest.raises(ConfigError, match="attention backend 'flash' is not one of"),
        use_backend("flash"),
    ):
        pass
