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


def random_weights(epilogue, size, outputs):
    """Weights as decoding stores them."""
    keys = jax.random.split(jax.random.key(0))
    if epilogue == "gate":
        return {"kernel_t": jax.random.normal(keys[0], (2, outputs, size)) / 18}
    kernel = jax.random.normal(keys[0], (size, outputs)) / 18
    return {"kernel": kernel, "bias": jax.random.normal(keys[1], (outputs,))}


@pytest.mark.parametrize(("epilogue", "outputs"), [("gate", 384), ("gelu", 512)])
def test_persistent_blocks_go_from_tile_to_tile(epilogue, outputs):
    """Two blocks for all tiles, in bands of two rows of tiles; the last rows fill no tile."""
    x = jax.random.normal(jax.random.key(1), (360, 320))
    weights = random_weights(epilogue, 320, outputs)
    matrix, bias = weights.get("kernel", weights.get("kernel_t")), weights.get("bias")
    with interpreted():
        out = fused_gemm(x, matrix, bias, epilogue=epilogue, tuning=Tuning(blocks=2, band=2))
    assert out.shape == (360, outputs)
    reference = fused_gemm_reference(x, matrix, bias, epilogue=epilogue)
    np.testing.assert_allclose(out, reference, atol=1e-5)


@pytest.mark.parametrize(("epilogue", "outputs"), [("gate", 128), ("gelu", 256)])
def test_a_linear_map_of_many_tokens_is_one_kernel(epilogue, outputs):
    """In one kernel as step by step, and in shapes as given."""
    x = jax.random.normal(jax.random.key(1), (3, 40, 128))
    weights = random_weights(epilogue, 128, outputs)
    norm = RmsNorm(jnp.linspace(0.5, 1.5, 128), 1e-6)
    run = functools.partial(linear, x, weights, norm=norm, epilogue=epilogue)
    plain = run()
    assert plain.shape == (3, 40, outputs)
    with interpreted():
        assert kernels_of(run) == {"fused_gemm"}
        np.testing.assert_allclose(run(), plain, atol=1e-5)
