"""Counts the floating-point operations (FLOPs) that a batch needs, without flattering the result.

Padding counts for nothing. The vision tower counts per real patch and, when frozen, forward only.
Attention counts per segment and causally, and the head only where it runs. Recomputation to save memory
does not count.
"""

from __future__ import annotations

import numpy as np

from livecc_jax.model.config import ModelConfig


def forward_flops(config: ModelConfig, rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Counts the FLOPs of one forward pass.

    Args:
        config: The architecture.
        rows: Packed rows, each field [B, ...].

    Returns:
        FLOPs by part of the network: vision, text, head.
    """
    v, t = config.vision, config.text
    patches = int(np.count_nonzero(rows["patch_pairs"]))
    mlp_flops = (3 if config.family.gated_tower else 2) * v.width * v.mlp
    per_patch = 2 * v.patch_values * v.width + v.depth * 2 * (4 * v.width**2 + mlp_flops)
    merged_width = v.width * v.merge_size**2
    per_merged_patch = 2 * (merged_width**2 + merged_width * t.width) * (1 + len(v.deepstack))
    pair_squares = _sum_of_squares(rows["patch_pairs"].reshape(-1, rows["patch_pairs"].shape[-1]))
    windowed = v.depth - len(v.full_blocks) if v.window else 0
    attended = (v.depth - windowed) * pair_squares
    if windowed:
        attended += windowed * _window_squares(rows, v.window)
    vision = (
        patches * per_patch + patches // v.merge_size**2 * per_merged_patch + 4 * v.width * attended
    )

    tokens = int(np.count_nonzero(rows["segment_ids"]))
    heads_width = t.heads * t.head_dim
    # Pairs of a query and a key that it attends to.
    attended_pairs = (_sum_of_squares(rows["segment_ids"]) + tokens) / 2
    text = t.layers * (tokens * per_token_flops(config) + 4 * heads_width * attended_pairs)

    head = 2 * t.width * t.vocab_size * int(np.count_nonzero(rows["target_weights"]))
    return {"vision": float(vision), "text": float(text), "head": float(head)}


def per_token_flops(config: ModelConfig) -> int:
    """Counts the FLOPs of the products of one token with the weights of one decoder layer."""
    t = config.text
    heads_width = t.heads * t.head_dim
    qkv_flops = t.width * (heads_width + 2 * t.kv_heads * t.head_dim)
    return 2 * (qkv_flops + heads_width * t.width + 3 * t.width * t.mlp)


def step_flops(
    config: ModelConfig, rows: dict[str, np.ndarray], vision_trainable: bool, adapters: int = 0
) -> float:
    """Counts the FLOPs of forward and backward pass; backward costs twice the forward of what trains.

    Args:
        config: The architecture.
        rows: Packed rows, each field [B, ...].
        vision_trainable: Whether the vision tower is trained; a frozen one has no backward pass.
        adapters: Number of parameters in low-rank adapters, which are then trained in place of the
            decoder. The backward pass of the decoder's own weights then costs only what carries the
            gradient through them.
    """
    parts = forward_flops(config, rows)
    text = parts["text"] + parts["head"]
    vision = parts["vision"] * (3 if vision_trainable else 1)
    if not adapters:
        return vision + 3 * text
    tokens, targets = (int(np.count_nonzero(rows[k])) for k in ("segment_ids", "target_weights"))
    t = config.text
    weights = t.layers * tokens * per_token_flops(config) + 2 * t.width * t.vocab_size * targets
    return vision + 3 * text - weights + 3 * 2 * tokens * adapters


def _window_squares(rows: dict[str, np.ndarray], window: int) -> float:
    """Sums (number of patches)^2 over the attention windows of packed rows.

    Rows without the places of their patches count as if every window were whole.
    """
    pairs = rows["patch_pairs"]
    if "patch_rows" not in rows:
        return float(np.count_nonzero(pairs)) * window**2
    real = pairs > 0
    of_row = np.broadcast_to(np.arange(pairs[..., 0].size).reshape(*pairs.shape[:-1], 1), pairs.shape)
    places = [of_row, pairs, rows["patch_rows"] // window, rows["patch_cols"] // window]
    _, counts = np.unique(np.stack([x[real] for x in places]), axis=1, return_counts=True)
    return float(np.sum(counts.astype(np.float64) ** 2))


def _sum_of_squares(ids: np.ndarray) -> float:
    """Sums (number of occurrences)^2 over the nonzero ids of each row of int [R, n]."""
    span = int(ids.max(initial=0)) + 1
    keyed = ids + span * np.arange(len(ids))[:, None]
    counts = np.bincount(keyed.ravel(), minlength=span * len(ids)).reshape(len(ids), span)
    return float(np.sum(counts[:, 1:].astype(np.float64) ** 2))
