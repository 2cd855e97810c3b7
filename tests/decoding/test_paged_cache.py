"""Contexts gathered out of the paged cache, against the same token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.paged_cache import gather_context
from livecc_jax.kernels.quantized import dequantize, quantize_int8


@pytest.mark.parametrize("quantized", [False, True])
def test_a_context_is_gathered_and_rotated(quantized):
    """Also where nothing is in the context; what other conversations have does not get through."""
    keys = jax.random.split(jax.random.key(0), 4)
    cache = tuple(jax.random.normal(key, (60, 3, 8)).at[7].set(jnp.nan) for key in keys[:2])
    cache = tuple(map(quantize_int8, cache)) if quantized else cache
    length = np.array([0, 5, 12])
    slots = np.array(jax.random.randint(keys[2], (3, 12), 8, 60))
    slots[np.arange(12) >= length[:, None]] = 7  # of another conversation
    angles = np.array(jax.random.uniform(keys[3], (3, 12, 4), maxval=6.0))
    gathered = gather_context(cache, jnp.asarray(slots), angles, jnp.asarray(length), jnp.float32)
    stored = [np.asarray(dequantize(x, jnp.float32) if quantized else x) for x in cache]
    for row in range(3):
        for i in range(length[row]):
            key, value = (array[slots[row, i]] for array in stored)
            pairs = (key[:, :4] + 1j * key[:, 4:]) * np.exp(1j * angles[row, i])
            np.testing.assert_allclose(
                gathered[0][row, i], np.concatenate([pairs.real, pairs.imag], axis=1), atol=2e-6
            )
            np.testing.assert_array_equal(gathered[1][row, i], value)
        assert not np.any(gathered[1][row, length[row] :])
