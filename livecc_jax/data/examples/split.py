"""Long streaming examples cut at turn boundaries, so that each piece fits a row.

A piece is a clip of its own: labels from 0, an opening of six frames, and what was said before it as
previous commentary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from livecc_jax.data.examples.example import ExamplePlan, plan_example
from livecc_jax.errors import ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import StreamExample
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, word_turns

TOKENS_A_WORD = 1.35
MOST_TEXT = 200  # tokens of text that a turn hardly ever has
OPENING_TURNS = OPENING_FRAMES // TURN_FRAMES  # ordinary turns that make an opening


@dataclass(frozen=True)
class Piece:
    """Part of a streaming example: a span of the file, in microseconds, and a range of its words."""

    start_us: int
    end_us: int
    first_word: int
    stop_word: int


def cut(example: StreamExample, piece: Piece) -> StreamExample:
    """The piece as an example; its previous commentary is the example's, then the words before it."""
    before = [w.text.strip() for w in example.words[: piece.first_word]]
    return dataclasses.replace(
        example,
        clip=dataclasses.replace(example.clip, start_us=piece.start_us, end_us=piece.end_us),
        words=example.words[piece.first_word : piece.stop_word],
        previous=" ".join(filter(None, [example.previous.strip(), *before])),
    )


def split_example(
    example: StreamExample,
    plan: ExamplePlan,
    template: ChatTemplate,
    budget: PixelBudget,
    context: bool,
    tokens: int,
    **how: Any,
) -> list[tuple[Piece, ExamplePlan]]:
    """Pieces of at most `tokens` tokens, as long as can be, from the beginning on.

    Args:
        example: that takes more.
        plan: its own.
        template: of the model's tokenizer.
        budget: pixels a frame.
        context: whether previous commentary is shown.
        tokens: most a piece may take.
        how: further arguments of `plan_example`.

    Returns:
        Pieces with their plans; stretches in which nothing is said are in none.

    Raises:
        ExampleError: not even an opening fits.
    """
    # Turns as two frames each: the opening counts as three, so that any boundary can start a piece.
    times = plan.media[0].times_us
    units = len(times) // TURN_FRAMES
    lasts = times[TURN_FRAMES - 1 :: TURN_FRAMES]
    owners = word_turns(lasts, example.words)

    def piece(first: int, stop: int) -> Piece:
        words = np.searchsorted(owners, [first, stop], side="left")
        return Piece(int(times[TURN_FRAMES * first]), int(lasts[stop - 1]), *map(int, words))

    def made(first: int, stop: int) -> ExamplePlan:
        return plan_example(cut(example, piece(first, stop)), template, budget, context, **how)

    seen = plan.media[0].patches_per_pair // 4
    cost = _Cost(example, plan, template, owners, units, context)
    found: list[tuple[Piece, ExamplePlan]] = []
    first = 0
    while units - first >= OPENING_TURNS:
        stop = cost.fitting(first, tokens)  # plans decide
        best: tuple[int, ExamplePlan] | None = None
        while first + OPENING_TURNS <= stop <= units:
            if 0 < units - stop < OPENING_TURNS <= units - OPENING_TURNS - first:
                stop = units - OPENING_TURNS  # the last piece needs an opening too
            try:
                whole = made(first, stop)
            except ExampleError:
                best = None
                break  # nothing is said here
            spare = tokens - whole.tokens
            if spare < 0:
                if best:
                    break
                stop -= max(1, -spare // (seen + MOST_TEXT))
                continue
            if best and stop <= best[0]:
                break
            best = stop, whole
            if spare < seen:
                break
            stop += 1
        if best:
            stop = best[0]
            found.append((piece(first, stop), best[1]))
        if stop - first < OPENING_TURNS:
            raise ExampleError(f"not even its first 3 s fit a row of {tokens} tokens")
        first = stop
    return found


class _Cost:
    """What pieces take, nearly: from the tokens that each turn of the whole took."""

    def __init__(
        self,
        example: StreamExample,
        plan: ExamplePlan,
        template: ChatTemplate,
        owners: np.ndarray,
        units: int,
        context: bool,
    ) -> None:
        media = plan.media[0]
        seen = media.patches_per_pair // 4
        text = max(0, plan.tokens - seen * media.pairs) / max(1, units)
        # Words of each unit as tokens, what is equal in all turns spread evenly.
        self._tokenizer = template.tokenizer
        self._example, self._context = example, context
        said = np.bincount(owners[owners < units], minlength=units).astype(float)
        even = text - said.sum() * TOKENS_A_WORD / max(1, units)
        self._upto = np.concatenate([[0], np.cumsum(seen + max(even, 0.0) + said * TOKENS_A_WORD)])
        self._words = np.searchsorted(owners, np.arange(units + 1), side="left")
        self._units = units

    def fitting(self, first: int, tokens: int) -> int:
        """Where a piece from `first` on that just fits may end."""
        before = int(self._words[first]) if self._context else 0
        told = [w.text for w in self._example.words[:before]]
        room = tokens - (len(self._tokenizer.encode(" ".join(told))) if told else 0)
        stop = int(np.searchsorted(self._upto, self._upto[first] + room, side="right"))
        return max(first + OPENING_TURNS, min(self._units, stop - 1))
