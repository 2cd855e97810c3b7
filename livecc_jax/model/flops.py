"""Counting the arithmetic that a batch needs, honestly.

Padding counts for nothing; the vision tower is counted per real patch and, when frozen, forward only;
attention per segment and causal; the head only where it runs; recomputation for memory not at all.
"""

from __future__ import annotations

import numpy as np

from livecc_jax.model.config import ModelConfig


def forward_flops(config: ModelConfig, rows: dict[str, np.ndarray]) -> dict[str, float]:
    """FLOPs of one forward pass over packed rows [B, ...], by part: vision, text, head."""
    v, t = config.vision, config.text
    patches = int(np.count_nonzero(rows["patch_pairs"]))
    per_patch = 2 * v.patch_values * v.width + v.depth * 2 * (4 * v.width**2 + 2 * v.width * v.mlp)
    fused = v.width * v.merge_size**2
    per_merged = 2 * (fused**2 + fused * t.width)
    pair_squares = _sum_of_squares(rows["patch_pairs"].reshape(-1, rows["patch_pairs"].shape[-1]))
    vision = (
        patches * per_patch
        + patches // v.merge_size**2 * per_merged
        + v.depth * 4 * v.width * pair_squares
    )

    tokens = int(np.count_nonzero(rows["segment_ids"]))
    heads = t.heads * t.head_dim
    seen = (_sum_of_squares(rows["segment_ids"]) + tokens) / 2  # pairs (query, key at or before it)
    text = t.layers * (tokens * per_token_flops(config) + 4 * heads * seen)

    head = 2 * t.width * t.vocab_size * int(np.count_nonzero(rows["target_weights"]))
    return {"vision": float(vision), "text": float(text), "head": float(head)}


def per_token_flops(config: ModelConfig) -> int:
    """FLOPs of the products of one token with the weights of one decoder layer."""
    t = config.text
    heads = t.heads * t.head_dim
    return 2 * (t.width * (heads + 2 * t.kv_heads * t.head_dim) + heads * t.width + 3 * t.width * t.mlp)


def step_flops(
    config: ModelConfig, rows: dict[str, np.ndarray], vision_learns: bool, adapters: int = 0
) -> float:
    """FLOPs of forward and backward; the backward pass costs twice the forward of what learns.

    Args:
        config: the architecture.
        rows: packed, [B, ...].
        vision_learns: whether the tower does; of one that does not there is no backward pass.
        adapters: how many numbers there are in low-rank adapters, which then learn in place of the
            decoder: of its weights the backward pass costs only what carries the gradient through.
    """
    parts = forward_flops(config, rows)
    text = parts["text"] + parts["head"]
    vision = parts["vision"] * (3 if vision_learns else 1)
    if not adapters:
        return vision + 3 * text
    tokens, targets = (int(np.count_nonzero(rows[k])) for k in ("segment_ids", "target_weights"))
    t = config.text
    weights = t.layers * tokens * per_token_flops(config) + 2 * t.width * t.vocab_size * targets
    return vision + 3 * text - weights + 3 * 2 * tokens * adapters


def _sum_of_squares(ids: np.ndarray) -> float:
    """Sum over rows and over nonzero ids of (how often the id occurs in the row)^2; ids int [R, n]."""
    span = int(ids.max(initial=0)) + 1
    keyed = ids + span * np.arange(len(ids))[:, None]
    counts = np.bincount(keyed.ravel(), minlength=span * len(ids)).reshape(len(ids), span)
    return float(np.sum(counts[:, 1:].astype(np.float64) ** 2))
