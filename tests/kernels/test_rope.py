"""Rotation of a prompt's queries and keys, in one kernel as in plain XLA."""

import jax
import jax.numpy as jnp

from livecc_jax.kernels import rope
from tests.support.kernels import assert_close, kernels_serve


def test_a_prompt_is_rotated_and_written_in_one_kernel():
    """Tokens beyond the cache are not written, and rows behind the last query have no meaning."""
    keys = jax.random.split(jax.random.key(0), 4)
    qkv = jax.random.normal(keys[0], (2, 5, 3, 2 + 2, 48))
    angles = jax.random.uniform(keys[1], (2, 5, 24), maxval=6.0)
    cache = tuple(jax.random.normal(key, (2, 16, 3, 48)) for key in keys[2:])
    args = qkv, angles, cache, jnp.array([3, 13]), 12
    with kernels_serve():
        queries, written = rope.rotate_and_write(*args)
    wanted, wanted_cache = rope.rotate_and_write_reference(*args)
    assert_close(queries[:, :, :10], wanted[:, :, :10], atol=1e-6)
    for array, reference in zip(written, wanted_cache):
        assert_close(array, reference, atol=1e-6)
