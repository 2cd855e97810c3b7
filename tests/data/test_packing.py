"""The packing plan: within budgets, complete, repeatable, dense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.data.rows.packing import RowShape, plan_rows
from livecc_jax.errors import DataError

needs = st.lists(
    st.tuples(st.integers(1, 120), st.integers(0, 12), st.integers(1, 40)), min_size=1, max_size=80
)
shapes = st.builds(RowShape, st.integers(60, 200), st.integers(5, 20), st.just(16), st.integers(20, 60))


@settings(max_examples=150, deadline=None)
@given(needs, shapes, st.integers(0, 5), st.integers(1, 3))
def test_every_example_once_an_epoch_within_every_budget(needs, shape, seed, epochs):
    need = np.array(needs)
    room = np.array([shape.tokens, shape.windows, shape.targets])
    fits = np.all(need <= room, axis=1)
    if not fits.any():
        with pytest.raises(DataError, match="no example fits"):
            plan_rows(*need.T, shape, seed, epochs)
        return
    plan = plan_rows(*need.T, shape, seed, epochs)
    rows = [plan.row(i) for i in range(len(plan))]
    assert all(rows)
    assert all(np.all(need[row].sum(0) <= room) for row in rows)
    assert sorted(i for row in rows for i in row) == sorted(np.flatnonzero(fits).tolist() * epochs)
    assert plan.dropped.tolist() == np.flatnonzero(~fits).tolist()
    again = plan_rows(*need.T, shape, seed, epochs)
    np.testing.assert_array_equal(plan.members, again.members)
    np.testing.assert_array_equal(plan.starts, again.starts)
    # Whole epochs come first: a longer run begins with the same rows.
    longer = plan_rows(*need.T, shape, seed, epochs + 1)
    np.testing.assert_array_equal(longer.members[: len(plan.members)], plan.members)


def test_rows_are_dense_and_shuffled():
    """A mixture of clips and short questions fills its rows, whatever order it is read in."""
    rng = np.random.default_rng(0)
    clips, questions = rng.integers(3000, 16000, 800), rng.integers(100, 1500, 1600)
    tokens = np.concatenate([clips, questions])
    windows, targets = tokens // 420, tokens // 60
    plan = plan_rows(tokens, windows, targets, RowShape(32768, 96, 1536, 1024), seed=1, epochs=1)
    filled = np.array([tokens[plan.row(i)].sum() for i in range(len(plan))]) / 32768
    assert filled[np.argsort(filled)][1:].mean() > 0.985
    longest_first = [tokens[plan.row(i)].max() for i in range(len(plan))]
    assert abs(np.corrcoef(np.arange(len(plan)), longest_first)[0, 1]) < 0.3
    other = plan_rows(tokens, windows, targets, RowShape(32768, 96, 1536, 1024), seed=2, epochs=1)
    assert plan.row(0) != other.row(0)
