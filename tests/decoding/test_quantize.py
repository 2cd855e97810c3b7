"""Products with 8-bit weights are off by what their formats round, and by no more."""

import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.quantize import (
    quantize,
    quantize_head,
    quantized_head_logits,
    quantized_linear,
)


def test_an_fp8_product_is_off_by_the_rounding_of_its_factors():
    """e4m3 keeps three bits of a mantissa: each factor is off by 1/16 at most."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(64, 4, 24)).astype(np.float32), np.arange(24.0) + np.zeros((4, 24))
    kernel *= 10.0 ** rng.uniform(-3, 3, size=(4, 24))  # outputs of all magnitudes
    x = rng.normal(size=(3, 5, 64)) * 10.0 ** rng.uniform(-3, 3, size=(3, 5, 1))
    weights = quantize({"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias, jnp.float32)})
    y = quantized_linear(jnp.asarray(x, jnp.float32), weights)
    exact = np.tensordot(x, kernel, 1)
    max_error = np.tensordot(abs(x), abs(kernel), 1) * ((1 + 1 / 16) ** 2 - 1)
    # What is smaller than the scale's last step is lost: 2**-10 of the largest, over 448.
    max_error += 64 * 2 * abs(x).max(-1)[..., None, None] * abs(kernel).max(0) * 2.0**-10 / 448
    assert (abs(y - bias - exact) <= max_error + 1e-5 * abs(bias)).all()
    relative_error = abs(y - bias - exact) / np.sqrt(np.tensordot(x**2, kernel**2, 1))
    assert np.median(relative_error) < 0.04


def test_the_input_of_one_token_is_not_rounded():
    """The product is exact for the weights as they are stored."""
    rng = np.random.default_rng(1)
    weights = quantize({"kernel": jnp.asarray(rng.normal(size=(384, 4, 24)), jnp.float32)})
    x = jnp.asarray(rng.normal(size=(1, 1, 384)), jnp.float32)
    kernel = np.asarray(weights["kernel_fp8"], np.float64)
    expected = kernel @ np.asarray(x, np.float64)[0, 0] * np.asarray(weights["scale"])
    np.testing.assert_allclose(quantized_linear(x, weights)[0, 0], expected, rtol=1e-5, atol=1e-5)


def test_logits_of_an_int8_head_are_off_by_half_a_step():
    """Only the head's weights are rounded, for one token as for several."""
    rng = np.random.default_rng(2)
    head = rng.normal(size=(48, 384)) * 10.0 ** rng.uniform(-3, 3, size=(48, 1))
    weights = quantize_head(jnp.asarray(head, jnp.float32))
    assert weights["kernel_int8"].dtype == jnp.int8
    x = rng.normal(size=(1, 384)).astype(np.float32)
    exact = x @ head.T
    max_error = abs(x).sum() * abs(head).max(1) / 127 * 0.5
    one_token = quantized_head_logits(jnp.asarray(x), weights)
    assert (abs(one_token - exact) <= max_error * 1.001).all()
    assert np.median(abs(one_token - exact) / max_error) < 0.1
    two_tokens = quantized_head_logits(jnp.asarray(x).repeat(2, 0).reshape(2, 1, 384), weights)
    np.testing.assert_allclose(two_tokens[1], one_token, rtol=1e-5, atol=1e-4)
