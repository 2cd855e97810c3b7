"""The product of many rows with its gate or GELU, against its reference and through decoding's maps."""

import functools

import jax
import jax.numpy as jnp
import pytest

from livecc_jax.decoding.linear import linear
from livecc_jax.kernels.fused_gemm import MIN_ROWS, Tuning, fused_gemm, fused_gemm_reference
from livecc_jax.kernels.norms import RmsNorm
from tests.support.kernels import (
    DTYPE,
    ON_GPU,
    assert_close,
    kernels_of,
    kernels_serve,
    plain_xla,
)


def random_weights(epilogue, size, outputs):
    """Weights as decoding stores them."""
    keys = jax.random.split(jax.random.key(0))
    if epilogue == "gate":
        return {"kernel_t": jax.random.normal(keys[0], (2, outputs, size), DTYPE) / 18}
    kernel = jax.random.normal(keys[0], (size, outputs), DTYPE) / 18
    return {"kernel": kernel, "bias": jax.random.normal(keys[1], (outputs,), DTYPE)}


@pytest.mark.parametrize(("epilogue", "outputs"), [("gate", 384), ("gelu", 512)])
def test_persistent_blocks_go_from_tile_to_tile(epilogue, outputs):
    """Two blocks for all tiles, in bands of two rows of tiles; the last rows fill no tile."""
    x = jax.random.normal(jax.random.key(1), (360, 320), DTYPE)
    weights = random_weights(epilogue, 320, outputs)
    matrix, bias = weights.get("kernel", weights.get("kernel_t")), weights.get("bias")
    with kernels_serve():
        out = fused_gemm(x, matrix, bias, epilogue=epilogue, tuning=Tuning(blocks=2, band=2))
    assert out.shape == (360, outputs)
    reference = fused_gemm_reference(x, matrix, bias, epilogue=epilogue)
    assert_close(out, reference, atol=1e-5, rtol=2e-6)  # sums of 320 products


@pytest.mark.parametrize(("epilogue", "outputs"), [("gate", 128), ("gelu", 256)])
def test_a_linear_map_of_many_tokens_is_one_kernel(epilogue, outputs):
    """In one kernel as step by step, and in shapes as given."""
    length = MIN_ROWS // 2 if ON_GPU else 40
    x = jax.random.normal(jax.random.key(1), (3, length, 128), DTYPE)
    weights = random_weights(epilogue, 128, outputs)
    norm = RmsNorm(jnp.linspace(0.5, 1.5, 128, dtype=DTYPE), 1e-6)
    run = functools.partial(linear, x, weights, norm=norm, epilogue=epilogue)
    with plain_xla():
        plain = run()
    assert plain.shape == (3, length, outputs)
    with kernels_serve():
        assert kernels_of(run) == {"fused_gemm"}
        assert_close(run(), plain, atol=1e-5)
