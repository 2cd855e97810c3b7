"""The switch that turns kernels off."""

import jax
import jax.numpy as jnp
import pytest

from livecc_jax.kernels import gemv, rope, without
from livecc_jax.kernels.disabled import NAMES, enabled
from tests.support.kernels import kernels_of, kernels_serve


def test_a_kernel_that_is_off_is_not_supported():
    with kernels_serve():
        assert gemv.is_supported(64, 256)
        with without("gemv", "fused_gemm"):
            assert not gemv.is_supported(64, 256)
            assert rope.is_supported()
        with without(*NAMES):
            assert not any(map(enabled, NAMES))
        assert gemv.is_supported(64, 256)


def test_a_function_compiled_before_is_traced_again():
    @jax.jit
    def f(x):
        return x + enabled("gemv")

    assert f(0) == 1
    with without("gemv"):
        assert f(0) == 0
    assert f(0) == 1


def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match="no kernel is called flash_gordon; there are flash_decode"):
        without("fused_norm", "flash_gordon")


def test_the_decoder_asks_the_switch():
    from livecc_jax.decoding.linear import linear

    x, weights = jnp.ones((1, 1, 256)), {"kernel_t": jnp.ones((64, 256))}
    with kernels_serve():
        assert kernels_of(linear, x, weights) == {"gemv"}
        with without("gemv"):
            assert kernels_of(linear, x, weights) == set()
