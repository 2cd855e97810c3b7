"""Builds an index of training examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.data.index import build
from livecc_jax.data.index.reader import Index
from livecc_jax.errors import ConfigError
from livecc_jax.families import DEFAULT, FAMILIES
from livecc_jax.families.family import Family
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.positions import check_positions


def build_index(
    annotations: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    tokenizer: str | Path | None = None,
    pixel_budget: str | int | None = None,
    family: str | None = None,
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
        family: The backbone family, such as "qwen3_vl", if there is no model yet; None is "qwen2_vl".
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
    settings = timeline_settings(model, tokenizer, pixel_budget, family=family)
    return build.build_index(
        annotations, out, settings.tokenizer, settings.budget, family=settings.family, **options
    )


class TimelineSettings(NamedTuple):
    """What turns an annotation into tokens, positions and patches.

    Attributes:
        tokenizer: The model's tokenizer.
        budget: The pixel budget.
        positions: The rotary position mode.
        family: The backbone family.
        pair_positions: Temporal positions from a frame pair to the next at 2 FPS.
    """

    tokenizer: Tokenizer
    budget: PixelBudget
    positions: str
    family: Family
    pair_positions: int


def timeline_settings(
    model: str | Path | None,
    tokenizer: str | Path | None,
    pixel_budget: str | int | None = None,
    positions: str | None = None,
    family: str | None = None,
) -> TimelineSettings:
    """Returns the settings that are given, and those of a checkpoint or the defaults for the others.

    Args:
        model: Checkpoint whose tokenizer and settings apply.
        tokenizer: Tokenizer file or directory, instead of a model.
        pixel_budget: The pixel budget; None is the model's.
        positions: The rotary position mode; None is the model's.
        family: The backbone family of a model that does not exist yet; None is Qwen2-VL.

    Raises:
        ConfigError: Not exactly one of `model` and `tokenizer` is given, the family is unknown or not
            that of the model, or it does not have the position mode.
    """
    if (model is None) == (tokenizer is None):
        raise ConfigError("give one of a model and a tokenizer")
    if family is not None and family not in FAMILIES:
        raise ConfigError(f"family {family!r} is not one of {', '.join(FAMILIES)}")
    if model is not None:
        checkpoint = open_checkpoint(model)
        opened, block = checkpoint.open_tokenizer(), checkpoint.livecc
        backbone, pairs = checkpoint.config.family, checkpoint.config.vision.pair_positions
        if family not in (None, backbone.model_type):
            raise ConfigError(f"{model}: is of the family {backbone.model_type}, not {family}")
    else:
        opened, block = open_tokenizer(tokenizer), LiveCCBlock()
        backbone = FAMILIES[family or DEFAULT.model_type]
        pairs = backbone.pair_positions
    budget = PixelBudget.parse(
        block.pixel_budget if pixel_budget is None else pixel_budget, backbone.patches.size
    )
    mode = positions or block.positions
    check_positions(mode, backbone)
    return TimelineSettings(opened, budget, mode, backbone, pairs)
