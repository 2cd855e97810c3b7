"""A model's vocabulary for a tokenizer."""

from __future__ import annotations

import dataclasses

from livecc_jax.model.config import ModelConfig, SpecialIds
from livecc_jax.text.tokenizer import Tokenizer

VOCAB_MULTIPLE = 128  # so that the vocabulary divides over a tensor axis


def fit_vocabulary(model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """A preset's architecture for this tokenizer.

    With Qwen2's ids the published vocabulary size stays; any other tokenizer brings its own size and
    ids.
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
