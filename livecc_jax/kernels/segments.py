"""Runs of equal segment ids in packed rows: where each begins and how long it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def segment_runs(segment_ids: jax.Array, max_runs: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the first `max_runs` runs of equal ids in each row.

    Args:
        segment_ids: int32 [B, T].
        max_runs: Number of runs, M, that the outputs have room for.

    Returns:
        The first token of each run, int32 [B, M + 1]; the length of each run, int32 [B, M]; and the
        number of runs of each row, int32 [B], which may exceed M. Starts and lengths are -1 where a row
        has no more runs, and the last start is always -1, which is the form that cuDNN expects.
    """
    length = segment_ids.shape[1]
    begins = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1] - 1) != 0

    def runs_of_row(begins: jax.Array) -> tuple[jax.Array, jax.Array]:
        starts = jnp.nonzero(begins, size=max_runs + 1, fill_value=length)[0].astype(jnp.int32)
        lengths = jnp.diff(starts)
        exists = lengths > 0
        return (
            jnp.append(jnp.where(exists, starts[:-1], -1), jnp.int32(-1)),
            jnp.where(exists, lengths, -1),
        )

    starts, lengths = jax.vmap(runs_of_row)(begins)
    return starts, lengths, jnp.sum(begins, axis=1)
