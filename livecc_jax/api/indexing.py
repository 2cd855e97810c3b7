"""Builds an index of training examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.data.index import build
from livecc_jax.data.index.reader import Index
from livecc_jax.errors import ConfigError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.tokenizer import Tokenizer


def build_index(
    annotations: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    tokenizer: str | Path | None = None,
    pixel_budget: str | int | None = None,
    **options: Any,
) -> Index:
    """Builds the index that training reads: every example's sizes, frame times and texts.

    Videos are not decoded, only their timestamps are read. An earlier build that was stopped goes on.

    Args:
        annotations: JSON lines files in LiveCC's format, local or in buckets, or datasets.
        out: Directory to create.
        model: Checkpoint whose tokenizer and pixel budget apply.
        tokenizer: Tokenizer file or directory, if there is no model yet.
        pixel_budget: Largest number of vision tokens of a frame pair, or "reference"; None is the
            model's, or 384 without a model.
        **options: Other arguments of `livecc_jax.data.index.build.build_index`: `row_tokens`,
            `workers`, `overwrite`, `progress`, ...

    Returns:
        The index; `len(index)` is its number of examples and `index.rejected` counts what cannot be
        used.

    Raises:
        DataError: A file is malformed, no example is usable, or `out` exists.
        ConfigError: Not exactly one of `model` and `tokenizer` is given, or an option is out of range.
        CheckpointError, TokenizerError: The model or the tokenizer cannot be used.
        OutputError: The disk is full, or the index cannot be written for another reason.

    Example:
        >>> livecc_jax.build_index("captions.jsonl", "index", model="Qwen2-VL-2B", pixel_budget=384)
    """
    if isinstance(annotations, str | Path):
        annotations = [annotations]
    opened, budget, _ = timeline_settings(model, tokenizer, pixel_budget)
    return build.build_index(annotations, out, opened, budget, **options)


def timeline_settings(
    model: str | Path | None,
    tokenizer: str | Path | None,
    pixel_budget: str | int | None = None,
    positions: str | None = None,
) -> tuple[Tokenizer, PixelBudget, str]:
    """Returns (tokenizer, pixel budget, position mode): those given, or else those of a checkpoint.

    Args:
        model: Checkpoint whose tokenizer and settings apply.
        tokenizer: Tokenizer file or directory, instead of a model.
        pixel_budget: The pixel budget; None is the model's.
        positions: The rotary position mode; None is the model's.

    Raises:
        ConfigError: Not exactly one of `model` and `tokenizer` is given.
    """
    if (model is None) == (tokenizer is None):
        raise ConfigError("give one of a model and a tokenizer")
    if model is not None:
        checkpoint = open_checkpoint(model)
        opened, block = checkpoint.open_tokenizer(), checkpoint.livecc
    else:
        opened, block = open_tokenizer(tokenizer), LiveCCBlock()
    budget = PixelBudget.parse(block.pixel_budget if pixel_budget is None else pixel_budget)
    return opened, budget, positions or block.positions
