"""Attention of a prompt to its cache and to itself, against its reference and step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.attention import attend_cache, attend_causal, merge_attention
from livecc_jax.decoding.decoder import split_qkv
from livecc_jax.kernels import flash_decode, flash_prefill, interpreted, without
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.mesh import make_mesh, parse_mesh
from tests.support.kernels import DTYPE, assert_close, kernels_of, kernels_serve, plain_xla


@pytest.mark.parametrize(
    ("queries", "heads", "lengths", "parts"),
    [(70, (1, 1), [100], 3), (10, (2, 1), [0, 128], 2), (3, (6, 2), [7], 1)],
)
def test_a_prompt_is_rotated_written_and_attends(queries, heads, lengths, parts):
    """In three kernels as step by step, in parts of which some have no keys for some queries."""
    keys = jax.random.split(jax.random.key(queries), 4)
    batch, (h, kv_heads) = len(lengths), heads
    qkv = jax.random.normal(keys[0], (batch, queries, kv_heads, h // kv_heads + 2, 64), DTYPE)
    angles = jax.random.uniform(keys[1], (batch, queries, 32), maxval=6.0)
    cache = tuple(jax.random.normal(key, (batch, 256, kv_heads, 64), DTYPE) for key in keys[2:])
    length = jnp.array(lengths)
    with kernels_serve():
        assert flash_prefill.is_supported(qkv, cache[0])
        out, written = flash_prefill.write_and_attend(
            qkv, angles, cache, length, flash_prefill.Tuning(block_keys=64, parts=parts)
        )
    q, k, v = split_qkv(qkv)
    q, k = rotate(q, angles), rotate(k, angles)
    for array, old, new in zip(written, cache, (k, v)):
        wanted = np.array(old)
        for row, begin in enumerate(lengths):
            wanted[row, begin : begin + queries] = new[row]
        assert_close(array, wanted, atol=1e-6)
    with plain_xla():
        wanted = merge_attention([attend_cache(q, *cache, length), attend_causal(q, k, v)])
    assert_close(out, wanted, atol=3e-6)
    reference, _ = flash_decode.attention_reference(qkv, angles, cache, length)
    assert_close(out, reference, atol=3e-6)


def test_what_stands_before_and_after_the_kernel_may_be_plain():
    """Rotation and the merge of parts in plain XLA give the same attention as in kernels."""
    keys = jax.random.split(jax.random.key(5), 4)
    qkv = jax.random.normal(keys[0], (1, 9, 1, 3 + 2, 64), DTYPE)
    angles = jax.random.uniform(keys[1], (1, 9, 32), maxval=6.0)
    cache = tuple(jax.random.normal(key, (1, 128, 1, 64), DTYPE) for key in keys[2:])
    args = qkv, angles, cache, jnp.array([70])
    tuning = flash_prefill.Tuning(block_keys=64, parts=2)
    with kernels_serve():
        attend = functools.partial(flash_prefill.write_and_attend, tuning=tuning)
        assert kernels_of(attend, *args) == {
            "rotate_and_write", "flash_prefill_parts", "merge_prefill_partials"
        }  # fmt: skip
        with without("rotate_and_write", "merge_partials"):
            assert kernels_of(attend, *args) == {"flash_prefill_parts"}
            out = attend(*args)
    for x, y in zip(jax.tree.leaves(out), jax.tree.leaves(flash_decode.attention_reference(*args))):
        assert_close(x, y, atol=3e-6)


@pytest.mark.skipif(jax.device_count() < 4, reason="a mesh of four devices")
def test_the_interpreter_does_not_serve_a_mesh():
    qkv, keys = (jax.ShapeDtypeStruct(x, jnp.float32) for x in ((2, 4, 2, 3, 64), (2, 128, 2, 64)))
    with interpreted():
        assert flash_prefill.is_supported(qkv, keys)
        with jax.set_mesh(make_mesh(parse_mesh("data=2,tensor=2"))):
            assert not flash_prefill.is_supported(qkv, keys)


@pytest.mark.parametrize(("blocks", "keys", "parts"), [(100, 512, 1), (4, 25_000, 8), (132, 25_000, 1)])
def test_keys_are_divided_where_few_blocks_read_many(blocks, keys, parts):
    assert flash_prefill.default_parts(blocks, keys) == parts
