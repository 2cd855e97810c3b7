"""Gathering a context out of a paged cache, in one kernel as in plain XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.paged_cache import gather_reference
from livecc_jax.kernels.paged_gather import is_supported, paged_gather, paged_gather_reference
from livecc_jax.kernels.quantized import quantize_int8
from tests.support.kernels import assert_close, kernels_serve, plain_xla


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(("kv_heads", "size"), [(4, 32), (3, 48)])
def test_a_context_is_gathered_and_rotated_in_one_kernel(kv_heads, size, quantized):
    """As step by step; also where nothing is in the context, and without reading others' slots."""
    keys = jax.random.split(jax.random.key(size), 4)
    cache = tuple(jax.random.normal(key, (300, kv_heads, size)).at[7].set(jnp.nan) for key in keys[:2])
    cache = tuple(map(quantize_int8, cache)) if quantized else cache
    slots = jax.random.randint(keys[2], (3, 128), 8, 300)
    length = jnp.array([0, 70, 128])
    in_context = jnp.arange(128) < length[:, None]
    slots = jnp.where(in_context, slots, 7)
    angles = jax.random.uniform(keys[3], (3, 128, size // 2), maxval=6.0)
    args = cache, slots, angles, length, jnp.float32
    with plain_xla():
        assert not is_supported(cache[0])
    with kernels_serve():
        assert is_supported(cache[0])
        gathered = paged_gather(*args)
    for array, sharded, reference in zip(
        gathered, gather_reference(*args), paged_gather_reference(*args)
    ):
        wanted = np.where(in_context[..., None, None], sharded, 0)
        assert_close(array, wanted, atol=2e-6)
        assert_close(array, reference, atol=2e-6)
