"""Architectures by name, and their vocabulary for a tokenizer; the sizes stand in `families`."""

from __future__ import annotations

import dataclasses

from livecc_jax.errors import ConfigError
from livecc_jax.families import FAMILIES
from livecc_jax.model.config import ModelConfig, SpecialIds, TextConfig, VisionConfig
from livecc_jax.text.tokenizer import Tokenizer

PRESETS: dict[str, ModelConfig] = {
    name: ModelConfig(TextConfig(**sizes["text"]), VisionConfig(**sizes["vision"]))
    for family in FAMILIES.values()
    for name, sizes in family.presets.items()
}

VOCAB_MULTIPLE = 128  # the vocabulary is rounded up to it, so that it divides over a tensor axis


def preset(name: str) -> ModelConfig:
    """Returns the architecture called `name`. Raises ConfigError when there is none."""
    if name not in PRESETS:
        raise ConfigError(f"there is no model preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def fit_vocabulary(model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Returns a preset's architecture with the vocabulary of a tokenizer.

    With Qwen2's special ids the published vocabulary size stays. Any other tokenizer brings its own
    size and ids.

    Args:
        model: The preset.
        tokenizer: The tokenizer that the model will be trained with.
    """
    special = tokenizer.special
    ids = SpecialIds(
        bos=special.endoftext,
        eos=special.im_end,
        vision_start=special.vision_start,
        vision_end=special.vision_end,
        vision_pad=special.endoftext,
        image_pad=special.image_pad,
        video_pad=special.video_pad,
    )
    if dataclasses.replace(ids, vision_pad=model.ids.vision_pad) == model.ids:
        return model
    size = -(-tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    return dataclasses.replace(model, text=dataclasses.replace(model.text, vocab_size=size), ids=ids)
