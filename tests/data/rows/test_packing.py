"""Packing: within the limits of a row, complete, repeatable and dense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.data.rows.packing import RowShape, pack_rows
from livecc_jax.errors import DataError

example_sizes = st.lists(
    st.tuples(st.integers(1, 120), st.integers(0, 12), st.integers(1, 40)), min_size=1, max_size=80
)
shapes = st.builds(RowShape, st.integers(60, 200), st.integers(5, 20), st.just(16), st.integers(20, 60))


@settings(max_examples=150, deadline=None)
@given(example_sizes, shapes, st.integers(0, 5), st.integers(1, 3))
def test_every_example_once_an_epoch_within_every_limit(sizes, shape, seed, epochs):
    sizes = np.array(sizes)
    limits = np.array([shape.tokens, shape.windows, shape.targets])
    fits = np.all(sizes <= limits, axis=1)
    if not fits.any():
        with pytest.raises(DataError, match="no example fits"):
            pack_rows(*sizes.T, shape, seed, epochs)
        return
    packing = pack_rows(*sizes.T, shape, seed, epochs)
    rows = [packing.row(i) for i in range(len(packing))]
    assert all(rows)
    assert all(np.all(sizes[row].sum(0) <= limits) for row in rows)
    assert sorted(i for row in rows for i in row) == sorted(np.flatnonzero(fits).tolist() * epochs)
    assert packing.dropped.tolist() == np.flatnonzero(~fits).tolist()
    again = pack_rows(*sizes.T, shape, seed, epochs)
    np.testing.assert_array_equal(packing.members, again.members)
    np.testing.assert_array_equal(packing.starts, again.starts)
    # Epochs are packed one after the other, so a longer run begins with the same rows.
    longer = pack_rows(*sizes.T, shape, seed, epochs + 1)
    np.testing.assert_array_equal(longer.members[: len(packing.members)], packing.members)


def test_rows_are_dense_and_shuffled():
    """A mixture of clips and short questions fills its rows, whatever order it is read in."""
    rng = np.random.default_rng(0)
    clips, questions = rng.integers(3000, 16000, 800), rng.integers(100, 1500, 1600)
    tokens = np.concatenate([clips, questions])
    windows, targets = tokens // 420, tokens // 60
    packing = pack_rows(tokens, windows, targets, RowShape(32768, 96, 1536, 1024), seed=1, epochs=1)
    filled = np.array([tokens[packing.row(i)].sum() for i in range(len(packing))]) / 32768
    assert filled[np.argsort(filled)][1:].mean() > 0.985
    longest_first = [tokens[packing.row(i)].max() for i in range(len(packing))]
    assert abs(np.corrcoef(np.arange(len(packing)), longest_first)[0, 1]) < 0.3
    other = pack_rows(tokens, windows, targets, RowShape(32768, 96, 1536, 1024), seed=2, epochs=1)
    assert packing.row(0) != other.row(0)
