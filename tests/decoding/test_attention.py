"""Attention to a cache and to a turn's own tokens: partial results merge into the whole."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.attention import (
    attend_cache,
    attend_causal,
    attend_masked,
    merge_attention,
)
from livecc_jax.model import attention_splash
from livecc_jax.parallel.mesh import make_mesh, parse_mesh


def defined_dense_attention(
    q, k, v, query_seq_lengths=None, key_value_seq_lengths=None, is_causal=False
):
    """What cuDNN computes, by definition; undefined (NaN) for a sequence without keys."""
    slots, queries = jnp.arange(k.shape[1]), jnp.arange(q.shape[1])
    if is_causal:
        mask = (slots <= queries[:, None])[None]
    else:
        mask = slots < key_value_seq_lengths[:, None, None]
        mask &= (queries < query_seq_lengths[:, None])[..., None]
    group = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, group, axis=2) for x in (k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(mask[:, None], scores, -jnp.inf)
    out = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    return out, jax.nn.logsumexp(scores, axis=-1).swapaxes(1, 2)


@pytest.mark.parametrize(
    ("batch", "queries", "capacity"),
    [(1, 1, 1536), (4, 1, 1536), (3, 1, 96), (1, 6, 96), (4, 6, 96), (3, 6, 1024), (1, 6, 1024)],
)
def test_merged_parts_are_attention_to_all_keys(batch, queries, capacity):
    """For any number of sequences, queries and devices, in plain XLA and in the forms for cuDNN."""
    keys = jax.random.split(jax.random.key(batch), 5)
    q = jax.random.normal(keys[0], (batch, queries, 12, 16))
    cached_kv = [jax.random.normal(key, (batch, capacity, 4, 16)) for key in keys[1:3]]
    own_kv = [jax.random.normal(key, (batch, queries, 4, 16)) for key in keys[3:]]
    length = jnp.array([capacity // 2 + 1, 0, capacity, 1])[:batch]
    in_cache = jnp.arange(capacity) < length[:, None, None]
    mask = [
        jnp.broadcast_to(in_cache, (batch, queries, capacity)),
        jnp.broadcast_to(jnp.tril(jnp.ones((queries, queries), bool)), (batch, queries, queries)),
    ]
    all_kv = (jnp.concatenate(x, axis=1) for x in zip(cached_kv, own_kv))
    expected = attend_masked(q, *all_kv, jnp.concatenate(mask, axis=2)).out
    meshes = {1: "tensor=4", 3: None, 4: "data=4,tensor=2"}
    for dense_attention, mesh in (
        (None, None),
        (defined_dense_attention, None),
        (defined_dense_attention, meshes[batch]),
    ):

        def attend(dense_attention=dense_attention):
            cached = attend_cache(q, *cached_kv, length, dense_attention)
            return merge_attention([cached, attend_causal(q, *own_kv, dense_attention)])

        with jax.set_mesh(make_mesh(parse_mesh(mesh))) if mesh else contextlib.nullcontext():
            np.testing.assert_allclose(jax.jit(attend)(), expected, atol=2e-6)


def test_splash_attends_to_a_cache():
    """In Pallas interpret mode; the first sequence has no keys."""
    keys = jax.random.split(jax.random.key(2), 3)
    q = jax.random.normal(keys[0], (3, 130, 4, 128))
    k, v = (jax.random.normal(key, (3, 384, 2, 128)) for key in keys[1:])
    length = jnp.array([0, 200, 384])
    out, log_sum_exp = attention_splash.attend_cache(q, k, v, length, interpret=True)
    expected = attend_masked(q, k, v, jnp.arange(384) < length[:, None, None])
    np.testing.assert_allclose(out[1:], expected.out[1:], atol=2e-6)
    np.testing.assert_allclose(log_sum_exp, expected.log_sum_exp, atol=2e-6)
    assert jnp.all(jnp.isfinite(out))  # merging multiplies it by a weight of 0
