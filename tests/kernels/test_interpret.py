"""The switch that runs kernels in interpret mode: what it reaches, up to whole decoder steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import append, empty_cache
from livecc_jax.decoding.vision import encode_frames
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.kernels import flash_prefill, fused_gemm, gemv, interpreted
from livecc_jax.kernels.interpret import interpreting
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.qwen2_vl import bind, init_params
from tests.support.kernels import DTYPE, ON_GPU, kernels_of, kernels_serve, plain_xla


def test_a_function_compiled_before_is_traced_again():
    @jax.jit
    def f(x):
        return x + interpreting()

    assert f(0) == 0
    with interpreted():
        assert f(0) == 1
    assert f(0) == 0


def test_kernels_still_refuse_shapes_that_they_cannot_compute():
    assert gemv.is_supported(64, 256) == ON_GPU
    with interpreted():
        assert gemv.is_supported(64, 256)
        assert not gemv.is_supported(64, 100)
        assert not fused_gemm.is_supported(1024, 100, 512, jnp.bfloat16)
        qkv, keys = (jax.ShapeDtypeStruct(x, jnp.bfloat16) for x in ((1, 4, 2, 3, 48), (1, 128, 2, 48)))
        assert not flash_prefill.is_supported(qkv, keys)


@pytest.mark.parametrize("precision", ["weights", "fp8"])
def test_whole_decoder_steps_are_the_plain_ones(precision):
    """The tower, a prompt over a cache, and a token: every kernel.

    On a GPU tower and prompt have as many rows as `fused_gemm` needs to pay.
    """
    size, length, capacity = ((448, 672), 1024, 2048) if ON_GPU else ((56, 56), 16, 128)
    text = TextConfig(128, 128, 1, 2, 1, 128, mrope_section=(8, 12, 12))
    # On a CPU the tower's MLP is of no size that `fused_gemm` serves, so that only one is interpreted.
    config = ModelConfig(text, VisionConfig(depth=1, width=128, heads=2, mlp=256 if ON_GPU else 192))
    params = jax.tree.map(lambda x: x.astype(DTYPE), init_params(config, jax.random.key(0)))
    weights = prepare_weights(params, precision=precision)
    model = bind(config, weights.other)
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, *size, 3), np.uint8)
    x = jax.random.normal(jax.random.key(1), (1, length, 128), DTYPE)
    positions = jnp.broadcast_to(jnp.arange(length), (1, 3, length))

    @jax.jit
    def steps(weights, frames, x):
        pictures = encode_frames(config, weights, frames)
        cache = empty_cache(config, 1, capacity, DTYPE)
        hidden, cache = append(model, weights.layers, cache, x, positions, jnp.array([0]))
        after = positions[..., :1] + length
        token, _ = append(model, weights.layers, cache, x[:, :1], after, jnp.array([length]))
        return pictures, hidden, logits(model, weights, token)

    with plain_xla():
        plain = steps(weights, jnp.asarray(frames), x)
    with kernels_serve():
        names = kernels_of(steps, weights, jnp.asarray(frames), x)
        fused = steps(weights, jnp.asarray(frames), x)
    assert names == {
        "window_attention", "rotate_and_write", "flash_prefill_parts",
        "merge_prefill_partials", "flash_decode_parts", "flash_decode_merge", "gemv", "add_and_norm",
        "fused_gemm" if precision == "weights" else "quantize_rows",
    }  # fmt: skip
    tolerance = 0.05 if precision == "fp8" else 0.02 if ON_GPU else 1e-5
    for ours, wanted in zip(fused, plain):
        ours, wanted = (np.asarray(array, np.float32) for array in (ours, wanted))
        assert np.std(ours - wanted) < tolerance * np.std(wanted)
