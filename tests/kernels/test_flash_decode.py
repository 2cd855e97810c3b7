"""Attention of one new token to its cache, against its reference and step by step."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.attention import (
    attend_masked,
    write_and_attend,
    write_and_attend_is_supported,
)
from livecc_jax.decoding.decoder import split_qkv
from livecc_jax.kernels import flash_decode
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.mesh import make_mesh, parse_mesh
from tests.support.kernels import DTYPE, assert_close, kernels_serve, plain_xla

NEEDS_FOUR = pytest.mark.skipif(jax.device_count() < 4, reason="a mesh of four devices")


def inputs(heads):
    """qkv, angles, cache and length of two sequences, the first without a past."""
    keys = jax.random.split(jax.random.key(heads), 6)
    qkv = jax.random.normal(keys[0], (2, 1, 4, heads // 4 + 2, 32), DTYPE)
    angles = jax.random.uniform(keys[3], (2, 1, 16), maxval=6.0)
    cache = tuple(jax.random.normal(key, (2, 192, 4, 32), DTYPE) for key in keys[4:])
    return qkv, angles, cache, jnp.array([0, 130])


def test_the_kernels_compute_their_reference():
    """And where a cache is full, the token is not written."""
    qkv, angles, cache, _ = inputs(12)
    run = jax.jit(flash_decode.write_and_attend)
    for length in ([0, 130], [191, 192]):
        args = qkv, angles, cache, jnp.array(length)
        with kernels_serve():
            out, written = run(*args)
        wanted, wanted_cache = flash_decode.attention_reference(*args)
        exists = np.array(length) < 192
        assert_close(out[exists], wanted[exists], atol=2e-6)
        for array, reference in zip(written, wanted_cache):
            assert_close(array, reference, atol=1e-6)


@pytest.mark.parametrize(
    ("heads", "over"), [(4, None), (12, None), pytest.param(12, "data=2,tensor=2", marks=NEEDS_FOUR)]
)
def test_a_token_is_rotated_written_and_attends(heads, over):
    """In two kernels as step by step, on any number of devices; what was in the cache before stays."""
    qkv, angles, cache, length = inputs(heads)
    mesh = jax.set_mesh(make_mesh(parse_mesh(over))) if over else contextlib.nullcontext()
    with mesh, kernels_serve():
        assert write_and_attend_is_supported(qkv, cache[0])
        out, written = jax.jit(write_and_attend)(qkv, angles, cache, length)
    with plain_xla():
        assert not write_and_attend_is_supported(qkv, cache[0])
    q, k, v = split_qkv(qkv)
    assert q.shape == (2, 1, heads, 32)
    for array, old, new in zip(written, cache, (rotate(k, angles), v)):
        wanted = np.array(old)
        wanted[0, 0], wanted[1, 130] = new[:, 0]
        assert_close(array, wanted, atol=1e-6)
    visible = jnp.arange(192) <= length[:, None, None]
    exact = (jnp.asarray(x, jnp.float32) for x in (rotate(q, angles), *written))
    assert_close(out, attend_masked(*exact, visible).out, atol=2e-6)
