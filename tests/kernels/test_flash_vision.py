"""Attention within the vision tower's windows, against its reference and step by step."""

import jax
import jax.numpy as jnp
import pytest

from livecc_jax.decoding.attention import attend_masked
from livecc_jax.decoding.vision import rotate_qkv, window_attention
from livecc_jax.kernels import flash_vision
from tests.support.kernels import DTYPE, assert_close, kernels_of, kernels_serve


@pytest.mark.parametrize(("windows", "length", "heads"), [(2, 70, 2), (1, 300, 1)])
def test_windows_are_rotated_and_attend(windows, length, heads):
    """In whole blocks of queries, as step by step."""
    qkv = jax.random.normal(jax.random.key(0), (windows, length, 3, heads, 80), DTYPE)
    angles = jax.random.uniform(jax.random.key(1), (1, length, 40), maxval=6.0)
    with kernels_serve():
        assert kernels_of(window_attention, qkv, angles) == {"window_attention"}
        out = window_attention(qkv, angles)
    q, k, v = rotate_qkv(qkv, angles)
    exact = (x.astype(jnp.float32) for x in (q, k, v))
    plain = attend_masked(*exact, jnp.ones((windows, length, length), bool)).out
    assert_close(out, plain, atol=3e-6)
    reference = flash_vision.window_attention_reference(jnp.stack([q, k, v], axis=2))
    assert_close(out, reference, atol=3e-6)
