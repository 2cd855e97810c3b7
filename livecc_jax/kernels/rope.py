"""Rotary embedding of a prompt's queries and keys, written where attention reads them, by Triton.

Plain XLA makes a kernel for each of queries, keys and values, which takes longer to start than to run.
Here a kernel serves all three.

`is_supported` says where the kernel serves; `rotate_and_write_reference` computes the same in plain
XLA.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.kernels.devices import hopper_or_newer
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.gpu import has_triton, triton, triton_call

WARPS = 8  # warps of a block


def is_supported() -> bool:
    """Whether the kernel serves on the device in scope, or on each of a mesh."""
    return enabled("rotate_and_write") and hopper_or_newer() and has_triton()


def rotate_halves(
    first: jax.Array, second: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Rotates halves of heads [..., D / 2] as `model.rope.rotate` does, and rounds as it does."""
    first32, second32 = first.astype(jnp.float32), second.astype(jnp.float32)
    rotated = first32 * cos - second32 * sin, second32 * cos + first32 * sin
    return tuple(x.astype(first.dtype) for x in rotated)


def rotate_heads(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates heads in plain XLA: x [B, T, H, D] by angles float32 [B or 1, T, D / 2]."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    return jnp.concatenate(rotate_halves(*jnp.split(x, 2, axis=-1), cos, sin), axis=-1)


def rotate_and_write_reference(
    qkv: jax.Array,
    angles: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    start: jax.Array,
    rows: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """What `rotate_and_write` computes, step by step; zeros behind the last query."""
    batch, length, kv_heads, _, size = qkv.shape
    queries = qkv[..., :-2, :].reshape(batch, length, -1, size)
    queries = rotate_heads(queries, angles).reshape(batch, length, kv_heads, -1, size)
    queries = queries.swapaxes(1, 2).reshape(batch, kv_heads, -1, size)
    queries = jnp.pad(queries, ((0, 0), (0, 0), (0, rows - queries.shape[2]), (0, 0)))
    slots = start[:, None] + jnp.arange(length)
    keys_and_values = rotate_heads(qkv[..., -2, :], angles), qkv[..., -1, :]
    batch_index = jnp.arange(batch)[:, None]
    written = (
        old.at[batch_index, slots].set(new.astype(old.dtype), mode="drop")
        for old, new in zip(cache, keys_and_values)
    )
    return queries, tuple(written)


def rotate_and_write(
    qkv: jax.Array,
    angles: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    start: jax.Array,
    rows: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotates a prompt's queries, grouped by key head, and writes its keys and values to a cache.

    Args:
        qkv: [B, Q, K, G + 2, D], for each key head its G queries, its key and its value; not rotated.
        angles: float32 [B, Q, D / 2].
        cache: Keys (rotated) and values, [B, C, K, D] each; written in place if they are donated.
        start: int32 [B], the slot of the first token of each prompt; slots from C on are not written.
        rows: Number of rows R that the queries are padded to, at least Q * G.

    Returns:
        The rotated queries [B, K, R, D], the G of a token next to each other, with undefined values
        behind the last; and the cache.
    """
    from jax.experimental import pallas as pl

    batch, length, kv_heads, heads_each, size = qkv.shape
    half, width, group = size // 2, kv_heads * heads_each * size, heads_each - 2
    capacity = cache[0].shape[1]

    def kernel(qkv_ref, cos_ref, sin_ref, start_ref, _k, _v, queries_ref, keys_ref, values_ref) -> None:  # noqa: ANN001
        token = pl.program_id(1)
        queries = _HeadTile(kv_heads * group, half)
        cos, sin = (queries.load_angles(ref) for ref in (cos_ref, sin_ref))
        kv_head, member = queries.head // group, queries.head % group
        halves = queries.load(qkv_ref, (kv_head * heads_each + member) * size)
        begin = (kv_head * rows + token * group + member) * size
        queries.store(queries_ref, rotate_halves(*halves, cos, sin), begin)

        tile = _HeadTile(kv_heads, half)
        slot = start_ref[...] + token
        for i, ref in ((0, keys_ref), (1, values_ref)):
            halves = tile.load(qkv_ref, (tile.head * heads_each + group + i) * size)
            halves = halves if i else rotate_halves(*halves, cos, sin)
            begin = slot * (kv_heads * size) + tile.head * size
            tile.store(ref, [x.astype(ref.dtype) for x in halves], begin, slot < capacity)

    def token_spec(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, width), lambda b, t: (b, t, 0))

    def sequence_spec(heads: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, heads * size), lambda b, t: (b, 0))

    queries, *written = triton_call(
        kernel,
        warps=WARPS,
        grid=(batch, length),
        in_specs=[
            token_spec(width),
            token_spec(half),
            token_spec(half),
            pl.BlockSpec((None,), lambda b, t: (b,)),
            sequence_spec(capacity * kv_heads),
            sequence_spec(capacity * kv_heads),
        ],
        out_specs=[
            sequence_spec(kv_heads * rows),
            sequence_spec(capacity * kv_heads),
            sequence_spec(capacity * kv_heads),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, kv_heads * rows * size), qkv.dtype),
            *[jax.ShapeDtypeStruct((batch, capacity * kv_heads * size), x.dtype) for x in cache],
        ],
        input_output_aliases={4: 1, 5: 2},
        name="rotate_and_write",
    )(
        qkv.reshape(batch, length, width), jnp.cos(angles), jnp.sin(angles), start,
        *[x.reshape(batch, -1) for x in cache],
    )  # fmt: skip
    queries = queries.reshape(batch, kv_heads, rows, size)
    return queries, tuple(new.reshape(old.shape) for new, old in zip(written, cache))


class _HeadTile:
    """All heads of one token within a kernel, as two halves [N, D / 2], axes padded to powers of two.

    The halves are separate arrays because they are rotated against each other, and because each lies
    together in memory.

    Args:
        heads: Number of heads.
        half: D / 2.
    """

    def __init__(self, heads: int, half: int) -> None:
        from jax.experimental import pallas as pl

        self._half = half
        self.head = jnp.arange(pl.next_power_of_2(heads))[:, None]
        self._column = jnp.arange(pl.next_power_of_2(half))[None]
        self._mask = (self.head < heads) & (self._column < half)

    def load_angles(self, ref: Any) -> jax.Array:
        """Loads cosines or sines, [1, D / 2]."""
        return triton().load(ref.at[self._column], mask=self._column < self._half, other=0)

    def load(self, ref: Any, begin: jax.Array) -> list[jax.Array]:
        """Loads both halves of the heads that begin at the offsets `begin` [N, 1]."""
        refs = (ref.at[begin + self._column + offset] for offset in (0, self._half))
        return [triton().load(half, mask=self._mask, other=0) for half in refs]

    def store(self, ref: Any, halves: Any, begin: jax.Array, exists: jax.Array | bool = True) -> None:
        """Stores both halves of the heads at the offsets `begin` [N, 1], if `exists`."""
        for x, offset in zip(halves, (0, self._half)):
            at = begin + self._column + offset
            triton().store(ref.at[at], x, mask=self._mask & exists)
