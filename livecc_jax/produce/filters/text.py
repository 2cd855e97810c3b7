"""The text filter: clips whose words a language model finds neither too easy nor too hard.

Too easy are refrains and phrases over and over, too hard are words that make no sentence (LiveCC, arXiv
2504.16030, section 3). The bounds belong to the model: 1.5 to 6.5 (pre-training) and 1.5 to 5 are those
of Qwen2-1.5B-Instruct.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection, reject

if TYPE_CHECKING:
    from livecc_jax.produce.filters.text_loss import ScoredText, TextLoss

MEASURE = "text_loss"
DIGITS = 4  # decimals of a loss that are kept
FIRST = "Please try to output the possible speech transcription of the video from start to end."
GOING_ON = (
    "Please try to output the possible speech transcription of the video following previous "
    "transcription."
)


def prompt(title: str, previous: str) -> str:
    """Returns the user's text of the published filter."""
    if previous:
        return f"Video Title: {title}\nPrevious transcription: {previous}\n{GOING_ON}"
    return f"Video Title: {title}\n{FIRST}"


def text_batch(
    clips: Sequence[Clip], parameters: Parameters, models: Models
) -> list[list[Clip | Rejection]]:
    """Keeps clips whose mean loss lies within the bounds, which are included.

    Args:
        clips: Clips that are scored together.
        parameters: Reads the fields of the stage "text".
        models: Gives the language model.

    Returns:
        For each clip: the clip with its loss among its measures, or its rejection.
    """
    model = text_model(parameters, models)
    limit = min(parameters.text_max_tokens, model.max_tokens)
    texts = [scored_text(clip, model, limit) for clip in clips]
    fitting = [i for i, t in enumerate(texts) if t is not None]
    losses = dict(zip(fitting, model.losses([texts[i] for i in fitting])))
    return [[_decide(clip, losses.get(i), parameters)] for i, clip in enumerate(clips)]


def text_model(parameters: Parameters, models: Models) -> TextLoss:
    """Returns the language model of a worker, which is opened once."""
    from livecc_jax.produce.filters.text_loss import TextLoss

    return models.get(f"text {parameters.text_model}", lambda: TextLoss.open(parameters.text_model))


def scored_text(clip: Clip, model: TextLoss, limit: int) -> ScoredText | None:
    """Returns a clip's words with their prompt as ids; None if the words alone are too many.

    The previous transcription is cut at the front until both fit.
    """
    from livecc_jax.produce.filters.text_loss import ScoredText

    words = model.pieces.encode(clip.text)

    def fitting(previous: str) -> ScoredText | None:
        ids = model.pieces.prompt(prompt(clip.title, previous))
        return ScoredText(ids, words) if len(ids) + len(words) <= limit else None

    whole = fitting(clip.previous)
    if whole is not None or not clip.previous:
        return whole
    previous = clip.previous.split()
    best, low, high = fitting(""), 0, len(previous)  # low of the last words fit, high do not
    while best is not None and high - low > 1:
        middle = (low + high) // 2
        found = fitting(" ".join(previous[-middle:]))
        if found is not None:
            best, low = found, middle
        else:
            high = middle
    return best


def _decide(clip: Clip, loss: float | None, parameters: Parameters) -> Clip | Rejection:
    if loss is None:
        return reject(clip, "text", "more words than the model takes", len(clip.words))
    if not math.isfinite(loss):
        return reject(clip, "text", "loss cannot be measured")
    loss = round(loss, DIGITS)
    if loss < parameters.min_text_loss:
        return reject(clip, "text", f"loss below {parameters.min_text_loss:g}", loss)
    if loss > parameters.max_text_loss:
        return reject(clip, "text", f"loss above {parameters.max_text_loss:g}", loss)
    return dataclasses.replace(clip, measures={**clip.measures, MEASURE: loss})
