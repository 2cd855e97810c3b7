"""Splits streaming examples that are longer than a row into slices, at turn boundaries.

Each slice is an example of its own: its time labels start at 0, its first turn shows six frames, and
the words before it become its previous commentary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from livecc_jax.data.examples.encode import EncodedExample, encode_example
from livecc_jax.errors import ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import StreamExample
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, assign_words

TOKENS_PER_WORD = 1.35
MAX_TEXT_TOKENS = 200  # tokens of text that a turn hardly ever exceeds
OPENING_UNITS = OPENING_FRAMES // TURN_FRAMES  # units of two frames that make an opening


@dataclass(frozen=True)
class ExampleSlice:
    """A part of a streaming example: a span of its file and a range of its words.

    Attributes:
        start_us: Start of the span in microseconds of the file.
        end_us: End of the span in microseconds of the file.
        first_word: Number of the first word.
        stop_word: Number of the first word after the slice.
    """

    start_us: int
    end_us: int
    first_word: int
    stop_word: int


def slice_example(example: StreamExample, part: ExampleSlice) -> StreamExample:
    """Returns a slice as an example; the words before it are added to the previous commentary."""
    words_before = [w.text.strip() for w in example.words[: part.first_word]]
    return dataclasses.replace(
        example,
        clip=dataclasses.replace(example.clip, start_us=part.start_us, end_us=part.end_us),
        words=example.words[part.first_word : part.stop_word],
        previous=" ".join(filter(None, [example.previous.strip(), *words_before])),
    )


def split_example(
    example: StreamExample,
    encoded: EncodedExample,
    template: ChatTemplate,
    budget: PixelBudget,
    context: bool,
    max_tokens: int,
    **options: Any,
) -> list[tuple[ExampleSlice, EncodedExample]]:
    """Splits an example into slices of at most `max_tokens` tokens, each as long as possible.

    Args:
        example: An example with more tokens than that.
        encoded: The same example, encoded or counted.
        template: Chat template over the model's tokenizer.
        budget: Pixel budget of a frame.
        context: Whether previous commentary is shown.
        max_tokens: Most tokens that a slice may have.
        options: Further arguments of `encode_example`.

    Returns:
        Slices with their encoded examples. Spans in which nothing is said belong to no slice.

    Raises:
        ExampleError: Not even an opening turn fits.
    """
    # Units of two frames each. An opening is three of them, so a slice can start at any unit.
    times_us = encoded.media[0].times_us
    num_units = len(times_us) // TURN_FRAMES
    unit_ends_us = times_us[TURN_FRAMES - 1 :: TURN_FRAMES]
    unit_of_word = assign_words(unit_ends_us, example.words)

    def slice_units(first: int, stop: int) -> ExampleSlice:
        words = np.searchsorted(unit_of_word, [first, stop], side="left")
        return ExampleSlice(
            int(times_us[TURN_FRAMES * first]), int(unit_ends_us[stop - 1]), *map(int, words)
        )

    def encode_slice(first: int, stop: int) -> EncodedExample:
        part = slice_example(example, slice_units(first, stop))
        return encode_example(part, template, budget, context, **options)

    pair_tokens = encoded.media[0].tokens_per_pair
    estimate = _TokenEstimate(example, encoded, template, unit_of_word, num_units, context)
    slices: list[tuple[ExampleSlice, EncodedExample]] = []
    first = 0
    while num_units - first >= OPENING_UNITS:
        stop = estimate.stop_that_fits(first, max_tokens)  # a first guess; encoding decides
        best: tuple[int, EncodedExample] | None = None
        while first + OPENING_UNITS <= stop <= num_units:
            if 0 < num_units - stop < OPENING_UNITS <= num_units - OPENING_UNITS - first:
                stop = num_units - OPENING_UNITS  # the last slice needs an opening too
            try:
                candidate = encode_slice(first, stop)
            except ExampleError:
                best = None
                break  # nothing is said in this span
            spare = max_tokens - candidate.tokens
            if spare < 0:
                if best:
                    break
                stop -= max(1, -spare // (pair_tokens + MAX_TEXT_TOKENS))
                continue
            if best and stop <= best[0]:
                break
            best = stop, candidate
            if spare < pair_tokens:
                break
            stop += 1
        if best:
            stop = best[0]
            slices.append((slice_units(first, stop), best[1]))
        if stop - first < OPENING_UNITS:
            raise ExampleError(f"not even its first 3 s fit a row of {max_tokens} tokens")
        first = stop
    return slices


class _TokenEstimate:
    """Estimates the tokens of slices from the tokens of the whole example."""

    def __init__(
        self,
        example: StreamExample,
        encoded: EncodedExample,
        template: ChatTemplate,
        unit_of_word: np.ndarray,
        num_units: int,
        context: bool,
    ) -> None:
        media = encoded.media[0]
        pair_tokens = media.tokens_per_pair
        text_tokens = max(0, encoded.tokens - pair_tokens * media.pairs) / max(1, num_units)
        # Tokens of each unit's words, with all other text spread evenly over the units.
        self._tokenizer = template.tokenizer
        self._example, self._context = example, context
        num_words = np.bincount(unit_of_word[unit_of_word < num_units], minlength=num_units)
        num_words = num_words.astype(float)
        other_text = text_tokens - num_words.sum() * TOKENS_PER_WORD / max(1, num_units)
        unit_tokens = pair_tokens + max(other_text, 0.0) + num_words * TOKENS_PER_WORD
        self._tokens_before = np.concatenate([[0], np.cumsum(unit_tokens)])
        self._first_words = np.searchsorted(unit_of_word, np.arange(num_units + 1), side="left")
        self._num_units = num_units

    def stop_that_fits(self, first: int, max_tokens: int) -> int:
        """Returns the unit before which a slice that starts at unit `first` should stop."""
        num_previous = int(self._first_words[first]) if self._context else 0
        previous = [w.text for w in self._example.words[:num_previous]]
        previous_tokens = len(self._tokenizer.encode(" ".join(previous))) if previous else 0
        limit = self._tokens_before[first] + (max_tokens - previous_tokens)
        stop = int(np.searchsorted(self._tokens_before, limit, side="right"))
        return max(first + OPENING_UNITS, min(self._num_units, stop - 1))
