"""The answer to a text prompt without any video, for judges."""

from __future__ import annotations

import numpy as np

from livecc_jax.decoding.generate import FIRST_QUESTION_NUMBER
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.stream.cache_store import Row
from livecc_jax.stream.contiguous_store import ContiguousContext
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.prompt import encode_prompt, padded_length

NO_GRIDS = np.zeros((0, 3), np.int32)


def complete(
    model: StreamModel, options: StreamOptions, tokens: np.ndarray, limit: int, chunk: int
) -> list[int]:
    """Returns the tokens that follow a text prompt, up to the end of the turn.

    Args:
        model: Shared weights.
        options: Decoding options.
        tokens: int32 [T], the prompt.
        limit: Largest number of generated tokens.
        chunk: Number of tokens that are prefilled at a time, a multiple of the prompt bucket.
    """
    context = ContiguousContext(model, options.reserve)
    context.reserve(padded_length(len(tokens), chunk), limit)
    last = (len(tokens) - 1) // chunk * chunk
    prompt = encode_prompt(model.template, tokens, NO_GRIDS, "sequential", 0)
    if last:
        context.prefill(prompt.select(slice(0, last)), chunk)
    row = Row(context, prompt.select(slice(last, None)), options, FIRST_QUESTION_NUMBER, limit, True)
    (generated,) = context.run(row, None, lambda: None)
    return [t for t in generated.tolist() if t >= 0]
