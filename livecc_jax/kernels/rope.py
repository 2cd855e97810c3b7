"""Projections taken apart, rotated and put where attention wants them, in one kernel each (GPU).

Plain XLA makes a kernel for each of queries, keys and values, each of which does next to nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.kernels.flash_decode import rotate_halves
from livecc_jax.kernels.gpu import triton_of_pallas

WARPS = 8


def rotated_windows(qkv: jax.Array, angles: jax.Array, interpret: bool = False) -> jax.Array:
    """The vision tower's windows, queries and keys rotated alike in each, where they are.

    Args:
        qkv: [W, S, 3, H, D].
        angles: float32 [1, S, D / 2].
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        [W, S, 3, H, D].
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    windows, length, _, heads, size = qkv.shape
    half, width = size // 2, heads * size

    def kernel(row_ref, cos_ref, sin_ref, out_ref) -> None:  # noqa: ANN001
        of_heads = _Heads(triton, heads, half)
        cos, sin = (of_heads.angle(ref) for ref in (cos_ref, sin_ref))
        for i in range(2):
            place = i * width + of_heads.number * size
            of_heads.store(out_ref, rotate_halves(*of_heads.load(row_ref, place), cos, sin), place)

    of_row = pl.BlockSpec((None, None, 3 * width), lambda w, s: (w, s, 0))
    out = pl.pallas_call(
        kernel,
        grid=(windows, length),
        in_specs=[of_row, *[pl.BlockSpec((None, half), lambda w, s: (s, 0))] * 2],
        out_specs=of_row,
        out_shape=jax.ShapeDtypeStruct((windows, length, 3 * width), qkv.dtype),
        input_output_aliases={0: 0},
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="rotated_windows",
    )(qkv.reshape(windows, length, 3 * width), jnp.cos(angles[0]), jnp.sin(angles[0]))
    return out.reshape(qkv.shape)


def placed_prompt(
    qkv: jax.Array,
    angles: jax.Array,
    kept: tuple[jax.Array, jax.Array],
    start: jax.Array,
    rows: int,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """A prompt's queries by key head, and what is kept with its keys and values.

    Args:
        qkv: [B, Q, K, G + 2, D], not rotated.
        angles: float32 [B, Q, D / 2].
        kept: keys (rotated) and values, [B, C, K, D] each; written where they are if they are donated.
        start: int32 [B], where in it the prompt's begin.
        rows: R, at least Q * G.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        ([B, K, R, D] rotated queries, the G of a token side by side and anything behind the last; what
        is kept with the prompt).
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    batch, length, kv, several, size = qkv.shape
    half, width, served = size // 2, kv * several * size, several - 2
    capacity = kept[0].shape[1]

    def kernel(row_ref, cos_ref, sin_ref, start_ref, _k, _v, queries_ref, keys_ref, values_ref) -> None:  # noqa: ANN001
        token = pl.program_id(1)
        queries = _Heads(triton, kv * served, half)
        cos, sin = (queries.angle(ref) for ref in (cos_ref, sin_ref))
        head, which = queries.number // served, queries.number % served
        pair = queries.load(row_ref, (head * several + which) * size)
        place = (head * rows + token * served + which) * size
        queries.store(queries_ref, rotate_halves(*pair, cos, sin), place)

        own = _Heads(triton, kv, half)
        there = start_ref[...] + token
        for i, ref in ((0, keys_ref), (1, values_ref)):
            pair = own.load(row_ref, (own.number * several + served + i) * size)
            pair = pair if i else rotate_halves(*pair, cos, sin)
            place = there * (kv * size) + own.number * size
            own.store(ref, [x.astype(ref.dtype) for x in pair], place, there < capacity)

    def of_row(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, width), lambda b, t: (b, t, 0))

    def of_all(count: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, count * size), lambda b, t: (b, 0))

    queries, *now = pl.pallas_call(
        kernel,
        grid=(batch, length),
        in_specs=[
            of_row(width),
            of_row(half),
            of_row(half),
            pl.BlockSpec((None,), lambda b, t: (b,)),
            of_all(capacity * kv),
            of_all(capacity * kv),
        ],
        out_specs=[of_all(kv * rows), of_all(capacity * kv), of_all(capacity * kv)],
        out_shape=[
            jax.ShapeDtypeStruct((batch, kv * rows * size), qkv.dtype),
            *[jax.ShapeDtypeStruct((batch, capacity * kv * size), x.dtype) for x in kept],
        ],
        input_output_aliases={4: 1, 5: 2},
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="placed_prompt",
    )(
        qkv.reshape(batch, length, width), jnp.cos(angles), jnp.sin(angles), start,
        *[x.reshape(batch, -1) for x in kept],
    )  # fmt: skip
    queries = queries.reshape(batch, kv, rows, size)
    return queries, tuple(new.reshape(old.shape) for new, old in zip(now, kept))


class _Heads:
    """Heads within a kernel, of a row that has all of them: halves [N, D / 2], N and D / 2 padded.

    Halves of their own are what is rotated, and lie together in memory.

    Args:
        triton: Pallas for it.
        count: of heads.
        half: D / 2.
    """

    def __init__(self, triton: Any, count: int, half: int) -> None:
        from jax.experimental import pallas as pl

        self._triton, self._half = triton, half
        self.number = jnp.arange(pl.next_power_of_2(count))[:, None]
        self._place = jnp.arange(pl.next_power_of_2(half))[None]
        self._real = (self.number < count) & (self._place < half)

    def angle(self, ref: Any) -> jax.Array:
        """[1, D / 2], of cosines or sines."""
        return self._triton.load(ref.at[self._place], mask=self._place < self._half, other=0)

    def load(self, ref: Any, begin: jax.Array) -> list[jax.Array]:
        """Both halves of heads that begin at `begin` [N, 1]."""
        halves = (ref.at[begin + self._place + at] for at in (0, self._half))
        return [self._triton.load(half, mask=self._real, other=0) for half in halves]

    def store(self, ref: Any, pair: Any, begin: jax.Array, there: jax.Array | bool = True) -> None:
        """Put both halves of heads where they begin, if that is there."""
        for x, at in zip(pair, (0, self._half)):
            self._triton.store(ref.at[begin + self._place + at], x, mask=self._real & there)


def mixed_prompt(
    out: jax.Array, weight: jax.Array, queries: int, served: int, interpret: bool = False
) -> jax.Array:
    """Parts of a prompt's attention as one, heads side by side again.

    Args:
        out: [P, B, K, R, D], as `placed_prompt` orders queries.
        weight: float32 [P, B, K, R], logarithms of the sums of exponentials, finite.
        queries: Q.
        served: G, query heads a key head.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        [B, Q, K * G, D].
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    parts, batch, kv, rows, size = out.shape
    width = kv * served * size

    def kernel(out_ref, weight_ref, mixed_ref) -> None:  # noqa: ANN001
        token = pl.program_id(1)
        at = jnp.arange(pl.next_power_of_2(width))
        real = at < width
        head = jnp.minimum(at // (served * size), kv - 1)
        row = token * served + at // size % served

        def of(ref, i: int, *place: jax.Array) -> jax.Array:  # noqa: ANN001
            part = jnp.full(at.shape, i)
            return triton.load(ref.at[(part, head, row, *place)], mask=real, other=0).astype(
                jnp.float32
            )

        if parts == 1:
            mixed = of(out_ref, 0, at % size)
        else:
            sizes = [of(weight_ref, i) for i in range(parts)]
            most = sizes[0]
            for each in sizes[1:]:
                most = jnp.maximum(most, each)
            shares = [jnp.exp(each - most) for each in sizes]
            mixed = sum(share * of(out_ref, i, at % size) for i, share in enumerate(shares))
            mixed = mixed / sum(shares)
        triton.store(mixed_ref.at[at], mixed.astype(mixed_ref.dtype), mask=real)

    def of_all(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((parts, None, *shape), lambda b, t: (0, b, *[0] * len(shape)))

    mixed = pl.pallas_call(
        kernel,
        grid=(batch, queries),
        in_specs=[of_all(kv, rows, size), of_all(kv, rows)],
        out_specs=pl.BlockSpec((None, None, width), lambda b, t: (b, t, 0)),
        out_shape=jax.ShapeDtypeStruct((batch, queries, width), out.dtype),
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="mixed_prompt",
    )(out, weight)
    return mixed.reshape(batch, queries, kv * served, size)
