"""Rotation of projected queries and keys, in one kernel as in plain XLA."""

import jax
import jax.numpy as jnp
import pytest

from livecc_jax.kernels import rope
from livecc_jax.model.rope import rotate
from tests.support.kernels import assert_close, kernels_serve


@pytest.mark.parametrize(("windows", "length"), [(2, 70), (1, 300)])
def test_windows_are_rotated_in_one_kernel(windows, length):
    qkv = jax.random.normal(jax.random.key(0), (windows, length, 3, 3, 80))
    angles = jax.random.uniform(jax.random.key(1), (1, length, 40), maxval=6.0)
    with kernels_serve():
        out = rope.rotate_windows(qkv, angles)
    q, k, v = (qkv[:, :, i] for i in range(3))
    wanted = jnp.stack([rotate(q, angles), rotate(k, angles), v], axis=2)
    assert_close(out, wanted, atol=1e-6)
    assert_close(rope.rotate_windows_reference(qkv, angles), wanted, atol=1e-6)


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
