"""The choice of a token against slow definitions."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.decoding.sampling import choosing, forbid_hasty_silence, greedy, penalize, sample


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.5, 2.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.2),
    st.integers(0, 8),
)
def test_scores_are_their_definition(seed, penalty, base, step, n):
    """Divided if positive, multiplied if negative; silence judged on what comes out of that."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, 12)).astype(np.float32)
    is_in_context = rng.random((2, 12)) < 0.5
    expected = logits.copy()
    for row in range(2):
        for i in range(12):
            if is_in_context[row, i]:
                value = expected[row, i]
                expected[row, i] = value / penalty if value > 0 else value * penalty
    penalized = penalize(
        jnp.asarray(logits), jnp.asarray(is_in_context), jnp.full(2, penalty, jnp.float32)
    )
    np.testing.assert_allclose(penalized, expected, rtol=1e-5)
    scores = forbid_hasty_silence(
        penalized, 7, jnp.full(2, base, jnp.float32), jnp.full(2, step, jnp.float32), jnp.asarray(n)
    )
    for row in range(2):
        p = np.exp(expected[row] - expected[row].max())
        p = p[7] / p.sum()
        if abs(p - (base + step * n)) > 1e-5:
            assert bool(np.isneginf(scores[row, 7])) == (p <= base + step * n)
    np.testing.assert_array_equal(np.delete(scores, 7, 1), np.delete(penalized, 7, 1))


def test_a_row_draws_independently():
    """The same key and scores give the same token in any batch; frequencies are right."""
    scores = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    keys = jax.random.split(jax.random.key(0), 2000)
    many = sample(jnp.repeat(scores, 2000, 0), jnp.ones(2000), keys)
    alone = sample(scores, jnp.ones(1), keys[3:4])
    assert int(alone[0]) == int(many[3])
    share = np.bincount(np.asarray(many), minlength=3) / 2000
    np.testing.assert_allclose(share, [0.7, 0.2, 0.1], atol=0.04)
    mixed = sample(jnp.repeat(scores, 2, 0), jnp.array([0.0, 1.0]), keys[2:4])
    assert mixed.tolist() == [0, int(many[3])]


def test_greedy_choices_can_be_forced():
    """Also of a function that was compiled before, which chooses the best again afterwards."""
    scores = jnp.array([[0.1, 0.9, 0.3], [0.5, 0.2, 0.4]])
    run = jax.jit(greedy)
    assert run(scores).tolist() == [1, 0]
    with choosing(lambda scores: jnp.argmin(scores, axis=-1).astype(jnp.int32)):
        assert run(scores).tolist() == [0, 1]
    assert run(scores).tolist() == [1, 0]
