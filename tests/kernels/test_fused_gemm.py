"""The product of many rows with its gate or GELU, against its reference and through decoding's maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.linear import linear
from livecc_jax.kernels import interpreted
from livecc_jax.kernels.fused_gemm import Tuning, fused_gemm, fused_gemm_reference
from livecc_jax.kernels.norms import RmsNorm
from tests.support.kernels import kernels_of


def inputs(epilogue):
    """x [3, 128, 320], and weights as decoding stores them."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 128, 320))
    if epilogue == "gate":
        return x, {"kernel_t": jax.random.normal(keys[1], (2, 384, 320)) / 18}
    kernel, bias = jax.random.normal(keys[1], (320, 512)) / 18, jax.random.normal(keys[2], (512,))
    return x, {"kernel": kernel, "bias": bias}


@pytest.mark.parametrize("epilogue", ["gate", "gelu"])
def test_persistent_blocks_go_from_tile_to_tile(epilogue):
    """Two blocks for all tiles, in bands of two rows of tiles; the last rows fill no tile."""
    x, weights = inputs(epilogue)
    x = x.reshape(-1, 320)[:360]
    matrix, bias = weights.get("kernel", weights.get("kernel_t")), weights.get("bias")
    with interpreted():
        out = fused_gemm(x, matrix, bias, epilogue=epilogue, tuning=Tuning(blocks=2, band=2))
    assert out.shape == (360, 384 if epilogue == "gate" else 512)
    np.testing.assert_allclose(out, fused_gemm_reference(x, matrix, bias, epilogue=epilogue), atol=1e-5)


@pytest.mark.parametrize("epilogue", ["gate", "gelu"])
def test_a_linear_map_of_many_tokens_is_one_kernel(epilogue):
    """In one kernel as step by step, and in shapes as given."""
    x, weights = inputs(epilogue)
    norm = RmsNorm(jnp.linspace(0.5, 1.5, 320), 1e-6)
    run = functools.partial(linear, x, weights, norm=norm, epilogue=epilogue)
    plain = run()
    with interpreted():
        assert kernels_of(run) == {"fused_gemm"}
        np.testing.assert_allclose(run(), plain, atol=1e-5)
