"""Long streaming examples cut at turn boundaries, so that each piece fits a row.

A piece is a clip of its own: labels from 0, an opening of six frames, and what was said before it as
previous commentary.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from livecc_jax.data.plan import ExamplePlan, plan_example
from livecc_jax.errors import ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import StreamExample
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, word_turns

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
    # A first guess at what a unit costs; plans decide.
    each = np.ceil(plan.tokens / units)

    def piece(first: int, stop: int) -> Piece:
        words = np.searchsorted(owners, [first, stop], side="left")
        return Piece(int(times[TURN_FRAMES * first]), int(lasts[stop - 1]), *map(int, words))

    def fits(first: int, stop: int) -> ExamplePlan | None:
        made = plan_example(cut(example, piece(first, stop)), template, budget, context, **how)
        return made if made.tokens <= tokens else None

    found: list[tuple[Piece, ExamplePlan]] = []
    first = 0
    while units - first >= OPENING_TURNS:
        stop = min(units, first + max(OPENING_TURNS, int(tokens // each) + 2))
        if 0 < units - stop < OPENING_TURNS:
            stop = units - OPENING_TURNS  # the last piece needs an opening too
        made = None
        while stop - first >= OPENING_TURNS:
            try:
                made = fits(first, stop)
            except ExampleError:
                break  # nothing is said here
            if made:
                found.append((piece(first, stop), made))
                break
            stop -= 1
        if stop - first < OPENING_TURNS:
            raise ExampleError(f"not even its first 3 s fit a row of {tokens} tokens")
        first = stop
    return found
