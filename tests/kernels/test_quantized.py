"""Arrays of 8-bit numbers with a scale for each vector."""

import jax.numpy as jnp
import numpy as np

from livecc_jax.kernels.quantized import dequantize, quantize_e4m3, quantize_int8


def test_an_int8_vector_is_off_by_half_a_step():
    x = np.random.default_rng(0).normal(size=(5, 3, 16)).astype(np.float32)
    x *= 10.0 ** np.arange(-7, 8).reshape(5, 3, 1)  # of all sizes
    x[2, 1] = 0
    quantized = quantize_int8(jnp.asarray(x))
    assert quantized.values.dtype == jnp.int8
    step = abs(x).max(-1, keepdims=True) / 127
    error = abs(np.asarray(dequantize(quantized, jnp.float32)) - x)
    assert (error <= step * (0.5 + 1e-5)).all()


def test_an_e4m3_row_keeps_three_bits_of_its_mantissas():
    x = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    x *= 10.0 ** np.array([[-6], [0], [6], [0]], np.float32)
    x[3] = 0
    quantized = quantize_e4m3(jnp.asarray(x))
    assert quantized.values.dtype == jnp.float8_e4m3fn
    smallest_step = abs(x).max(-1, keepdims=True) * 2.0**-10 / 448
    error = abs(np.asarray(dequantize(quantized, jnp.float32)) - x)
    assert (error <= abs(x) / 16 * (1 + 1e-5) + smallest_step).all()
