"""Projections taken apart, rotated and put where attention wants them, in one kernel each (GPU).

Plain XLA makes a kernel for each of queries, keys and values, each of which does next to nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from livecc_jax.model.attention_layout import layout_in_scope
from livecc_jax.model.attention_one import triton_of_pallas

WARPS = 4


def usable() -> bool:
    """Whether the kernels serve here, with this jax."""
    layout = layout_in_scope(("batch", None))
    return layout.platform == "gpu" and layout.mesh is None and triton_of_pallas() is not None


def rotated_windows(
    qkv: jax.Array, angles: jax.Array, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries and keys of the vision tower's windows, rotated alike in each, and values.

    Args:
        qkv: [W, S, 3, H, D].
        angles: float32 [1, S, D / 2].
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        [W, S, H, D] each.
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    windows, length, _, heads, size = qkv.shape
    half, width = size // 2, heads * size
    row = qkv.reshape(windows, length, 3 * width)

    def kernel(row_ref, cos_ref, sin_ref, *out_refs) -> None:  # noqa: ANN001, ANN002
        at = jnp.arange(_power(width))
        real = at < width
        place = at % size
        pair = jnp.where(place < half, at + half, at - half)
        angle = place % half
        cos, sin = (triton.load(ref.at[angle], mask=real, other=0) for ref in (cos_ref, sin_ref))
        sin = jnp.where(place < half, -sin, sin)
        for i, out_ref in enumerate(out_refs):

            def part(at: jax.Array, i: int = i) -> jax.Array:
                return triton.load(row_ref.at[at + i * width], mask=real, other=0)

            x = part(at)
            if i < 2:
                wide = x.astype(jnp.float32) * cos + part(pair).astype(jnp.float32) * sin
                x = wide.astype(x.dtype)
            triton.store(out_ref.at[at], x, mask=real)

    def of_row(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, width), lambda w, s: (w, s, 0))

    out = pl.pallas_call(
        kernel,
        grid=(windows, length),
        in_specs=[of_row(3 * width), *[pl.BlockSpec((None, half), lambda w, s: (s, 0))] * 2],
        out_specs=[of_row(width)] * 3,
        out_shape=[jax.ShapeDtypeStruct((windows, length, width), qkv.dtype)] * 3,
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="rotated_windows",
    )(row, jnp.cos(angles[0]), jnp.sin(angles[0]))
    return tuple(x.reshape(windows, length, heads, size) for x in out)


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

        def taken(first: int, count: int) -> tuple[jax.Array, ...]:
            """Some heads of each key head: (as they are, rotated, key head, which one, place)."""
            at = jnp.arange(_power(kv * count * size))
            real = at < kv * count * size
            head, which, place = at // (count * size), at // size % count, at % size
            row = (head * several + first + which) * size

            def load(ref, at: jax.Array) -> jax.Array:  # noqa: ANN001
                return triton.load(ref.at[at], mask=real, other=0)

            x = load(row_ref, row + place)
            pair = load(row_ref, row + jnp.where(place < half, place + half, place - half))
            cos, sin = (load(ref, place % half) for ref in (cos_ref, sin_ref))
            sin = jnp.where(place < half, -sin, sin)
            turned = x.astype(jnp.float32) * cos + pair.astype(jnp.float32) * sin
            return x, turned.astype(x.dtype), head, which, place, real

        _, turned, head, which, place, real = taken(0, served)
        triton.store(queries_ref.at[head, token * served + which, place], turned, mask=real)
        there = start_ref[...] + token
        for number, ref in ((0, keys_ref), (1, values_ref)):
            x, turned, head, _, place, real = taken(served + number, 1)
            x = (x if number else turned).astype(ref.dtype)
            place = jnp.broadcast_to(there, x.shape), head, place
            triton.store(ref.at[place], x, mask=real & (there < capacity))

    def of_row(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, width), lambda b, t: (b, t, 0))

    of_kept = pl.BlockSpec((None, capacity, kv, size), lambda b, t: (b, 0, 0, 0))
    queries, *kept = pl.pallas_call(
        kernel,
        grid=(batch, length),
        in_specs=[
            of_row(width),
            of_row(half),
            of_row(half),
            pl.BlockSpec((None,), lambda b, t: (b,)),
            of_kept,
            of_kept,
        ],
        out_specs=[
            pl.BlockSpec((None, kv, rows, size), lambda b, t: (b, 0, 0, 0)),
            of_kept,
            of_kept,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, kv, rows, size), qkv.dtype),
            *[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in kept],
        ],
        input_output_aliases={4: 1, 5: 2},
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="placed_prompt",
    )(qkv.reshape(batch, length, width), jnp.cos(angles), jnp.sin(angles), start, *kept)
    return queries, tuple(kept)


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
        at = jnp.arange(_power(width))
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


def _power(width: int) -> int:
    """Of two, as the kernels' vectors have to be."""
    return 1 << (width - 1).bit_length()
