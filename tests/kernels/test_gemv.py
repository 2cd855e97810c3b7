"""The product of a matrix and one vector, against its reference and through decoding's linear maps."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.linear import linear
from livecc_jax.decoding.quantize import quantize_head, quantized_head_logits
from livecc_jax.kernels.gemv import Tuning, gemv, gemv_reference
from livecc_jax.kernels.norms import RmsNorm
from tests.support.kernels import (
    DTYPE,
    assert_close,
    kernels_of,
    kernels_serve,
    linear_maps,
    plain_xla,
)


@pytest.mark.parametrize("tuning", [None, Tuning(rows=2, warps=1), Tuning(rows=4, warps=2)])
def test_the_kernel_computes_its_reference(tuning):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), DTYPE)

    options = {
        "norm": RmsNorm(normal(256), 1e-6), "scale": normal(64).astype(jnp.float32),
        "bias": normal(64), "gated": True, "residual": normal(32),
    }  # fmt: skip
    x, matrix = normal(256), normal(64, 256)
    reference = gemv_reference(x, matrix, **options)
    with kernels_serve():
        out = gemv(x, matrix, tuning=tuning, **options)
    assert_close(out, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("epilogue", [None, "gate"])
@pytest.mark.parametrize("normed", [False, True])
def test_a_linear_map_of_one_token_is_one_kernel(epilogue, normed):
    """Norm, product, bias, gate and residual in one are what they are one after the other."""
    rng = np.random.default_rng(1)
    norm = RmsNorm(jnp.asarray(rng.normal(size=384), DTYPE), 1e-6) if normed else None
    x = jnp.asarray(rng.normal(size=(1, 1, 384)), DTYPE)
    for weights in linear_maps(rng):
        residual = rng.normal(size=(1, 1, 96) if epilogue else (1, 1, 2, 96))
        for add in (None, jnp.asarray(residual, DTYPE)):
            run = functools.partial(linear, x, weights, norm=norm, epilogue=epilogue, add=add)
            with plain_xla():
                plain = run()
            with kernels_serve():
                assert kernels_of(run) == {"gemv"}
                fused = run()
            assert fused.shape == plain.shape
            assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_a_quantized_head_is_one_kernel():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(48, 384)) * 10.0 ** rng.uniform(-3, 3, size=(48, 1))
    weights = quantize_head(jnp.asarray(rows, jnp.float32))
    x = jnp.asarray(rng.normal(size=(1, 384)), jnp.bfloat16)
    with kernels_serve():
        assert kernels_of(quantized_head_logits, x, weights) == {"gemv"}
        logits = quantized_head_logits(x, weights)
    assert logits.dtype == jnp.float32
    wanted = x.astype(jnp.float32) @ weights["kernel_int8"].T.astype(jnp.float32) * weights["scale"]
    assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
