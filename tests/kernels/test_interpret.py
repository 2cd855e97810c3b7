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
from tests.support.kernels import kernels_of


def test_a_function_compiled_before_is_traced_again():
    @jax.jit
    def f(x):
        return x + interpreting()

    assert f(0) == 0
    with interpreted():
        assert f(0) == 1
    assert f(0) == 0


def test_kernels_still_refuse_shapes_that_they_cannot_compute():
    assert not gemv.is_supported(64, 256)
    with interpreted():
        assert gemv.is_supported(64, 256)
        assert not gemv.is_supported(64, 100)
        assert not fused_gemm.is_supported(1024, 100, 512, jnp.bfloat16)
        qkv, keys = (jax.ShapeDtypeStruct(x, jnp.bfloat16) for x in ((1, 4, 2, 3, 48), (1, 128, 2, 48)))
        assert not flash_prefill.is_supported(qkv, keys)


@pytest.mark.parametrize("precision", ["weights", "fp8"])
def test_whole_decoder_steps_are_the_plain_ones(precision):
    """The tower, a prompt over a cache, and a token: every kernel but the paged gather."""
    text = TextConfig(128, 128, 1, 2, 1, 128, mrope_section=(8, 12, 12))
    config = ModelConfig(text, VisionConfig(depth=1, width=128, heads=2, mlp=256))
    params = init_params(config, jax.random.key(0))
    weights = prepare_weights(params, precision=precision)
    model = bind(config, weights.other)
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 56, 56, 3), np.uint8)
    x = jax.random.normal(jax.random.key(1), (1, 16, 128))
    positions = jnp.broadcast_to(jnp.arange(16), (1, 3, 16))

    @jax.jit
    def steps(weights, frames, x):
        pictures = encode_frames(config, weights, frames)
        cache = empty_cache(config, 1, 128, jnp.float32)
        hidden, cache = append(model, weights.layers, cache, x, positions, jnp.array([0]))
        token, _ = append(
            model, weights.layers, cache, x[:, :1], positions[..., :1] + 16, jnp.array([16])
        )
        return pictures, hidden, logits(model, weights, token)

    plain = steps(weights, jnp.asarray(frames), x)
    with interpreted():
        names = kernels_of(steps, weights, jnp.asarray(frames), x)
        fused = steps(weights, jnp.asarray(frames), x)
    assert names == {
        "rotate_windows", "window_attention", "rotate_and_write", "flash_prefill_parts",
        "merge_prefill_partials", "flash_decode_parts", "flash_decode_merge", "gemv", "add_and_norm",
        "fused_gemm" if precision == "weights" else "quantize_rows",
    }  # fmt: skip
    for ours, wanted in zip(fused, plain):
        difference = jnp.std(ours - wanted) / jnp.std(wanted)
        assert difference < (1e-5 if precision == "weights" else 0.05)
