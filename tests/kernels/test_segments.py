"""Runs of equal segment ids, against the same in Python."""

import itertools

import jax.numpy as jnp
import numpy as np

from livecc_jax.kernels.segments import segment_runs


def test_runs_are_found_up_to_the_room_there_is():
    ids = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [3] * 8, [1, 2, 3, 4, 5, 5, 0, 0]], np.int32)
    starts, lengths, counts = segment_runs(jnp.asarray(ids), max_runs=4)
    assert starts.shape == (3, 5)
    for row, row_starts, row_lengths, count in zip(ids, starts, lengths, counts):
        wanted = [len(list(run)) for _, run in itertools.groupby(row)]
        assert count == len(wanted)
        wanted = wanted[:4]
        padding = [-1] * (4 - len(wanted))
        assert [*row_lengths] == wanted + padding
        assert [*row_starts] == [0, *np.cumsum(wanted)][: len(wanted)] + padding + [-1]
