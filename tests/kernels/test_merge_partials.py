"""Partial attention results merged by their log-sum-exp are attention to all keys."""

import jax
import jax.numpy as jnp
import pytest

from livecc_jax.kernels.merge_partials import (
    merge_partials,
    merge_prefill_partials,
    merge_prefill_partials_reference,
)
from tests.support.kernels import assert_close, kernels_serve


def partial_results(scores, values):
    """Softmax over the last axis of scores [..., S] times values [S, D], and the log-sum-exp."""
    weights = jnp.nan_to_num(jax.nn.softmax(scores, axis=-1))
    return weights @ values, jax.nn.logsumexp(scores, axis=-1)


def test_the_parts_are_the_whole():
    """Stacked or as a list; where a part has no keys, and where none has."""
    scores = jax.random.normal(jax.random.key(0), (5, 3, 24)) * 9
    scores = scores.at[1, :, :8].set(-jnp.inf).at[2].set(-jnp.inf)
    values = jax.random.normal(jax.random.key(1), (24, 16))
    parts = [partial_results(scores[..., i : i + 8], values[i : i + 8]) for i in (0, 8, 16)]
    outs, log_sums = zip(*parts)
    wanted, wanted_log_sum = partial_results(scores, values)
    for merged in (
        merge_partials(outs, log_sums),
        merge_partials(jnp.stack(outs), jnp.stack(log_sums)),
    ):
        assert_close(merged[0], wanted, atol=1e-6)
        assert_close(merged[1], wanted_log_sum, rtol=1e-6)


def test_the_result_has_the_dtype_of_the_parts():
    outs = jnp.ones((2, 4, 8), jnp.bfloat16)
    assert merge_partials(outs, jnp.zeros((2, 4)))[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("parts", [1, 3])
def test_a_prompts_parts_are_merged_in_one_kernel(parts):
    """With the query heads of a token next to each other again; rows that pad are dropped."""
    keys = jax.random.split(jax.random.key(parts))
    outs = jax.random.normal(keys[0], (parts, 2, 3, 16, 48))
    log_sums = jax.random.normal(keys[1], (parts, 2, 3, 16)) * 5
    with kernels_serve():
        merged = merge_prefill_partials(outs, log_sums, queries=5, group=2)
    wanted = merge_prefill_partials_reference(outs, log_sums, queries=5, group=2)
    assert merged.shape == (2, 5, 6, 48)
    assert_close(merged, wanted, atol=1e-6)
