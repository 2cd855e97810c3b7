"""Whole calls of decoding, lowered for a GPU that need not be there, consist of these kernels."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import append
from livecc_jax.decoding.vision import encode_frames
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.qwen2_vl import abstract_params, bind
from tests.support.kernels import kernels_lowered_for_cuda


@pytest.mark.parametrize("precision", ["weights", "fp8"])
def test_a_turn_on_an_h100_is_made_of_these_kernels(precision):
    """The tower, a prompt, a token and the head; tower and prompt have `fused_gemm.MIN_ROWS` rows."""
    text = TextConfig(512, 256, 2, 4, 2, 512, mrope_section=(8, 12, 12))
    config = ModelConfig(text, VisionConfig(depth=2, width=128, heads=2, mlp=256))
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), abstract_params(config)
    )
    weights = jax.eval_shape(functools.partial(prepare_weights, precision=precision), params)
    cache = [(jax.ShapeDtypeStruct((1, 2048, 2, 64), jnp.bfloat16),) * 2] * 2

    def step(weights, cache, x, positions, start):
        model = bind(config, weights.other)
        hidden, cache = append(model, weights.layers, cache, x, positions, start)
        return logits(model, weights, hidden[:, -1]), cache

    def kernels_of_step(queries):
        x = jax.ShapeDtypeStruct((1, queries, 256), jnp.bfloat16)
        positions = jnp.zeros((1, 3, queries), int)
        return kernels_lowered_for_cuda(step, weights, cache, x, positions, jnp.array([70]))

    h100 = AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=h100)):
        between = {"add_and_norm", "quantize_rows" if precision == "fp8" else "fused_gemm"}
        tower = {"window_attention"} | between
        frames = jax.ShapeDtypeStruct((1, 16, 112, 224, 3), jnp.uint8)
        encode = functools.partial(encode_frames, config)
        assert kernels_lowered_for_cuda(encode, weights, frames) == tower
        prompt = {"rotate_and_write", "flash_prefill_parts", "merge_prefill_partials"} | between
        head = {"gemv"} if precision == "fp8" else set()
        assert kernels_of_step(1024) == prompt | head
        assert kernels_of_step(1) == {"gemv", "flash_decode_parts", "flash_decode_merge"}
