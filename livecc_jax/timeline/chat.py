"""Conversations into tokens, in the ChatML template of Qwen2-VL.

Text is tokenised in the same stretches as HuggingFace does it, between one special token and the next,
except that an answer is a stretch of its own: what a turn's prompt and answer are does not depend on
whether the answer is known yet, so streaming sees exactly the tokens of training.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from livecc_jax.families.qwen2_vl import MERGE, SYSTEM_PROMPT
from livecc_jax.text.tokenizer import SILENCE, Tokenizer
from livecc_jax.timeline.turns import Turn, turn_label

COUNTS_KEPT = 1 << 15  # turns whose length is remembered


@dataclass(frozen=True)
class Visual:
    """A place for a video or an image: grid is (frame pairs, rows, columns) in patches."""

    kind: Literal["video", "image"]
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        """How many tokens it takes."""
        t, h, w = self.grid
        return t * (h // MERGE) * (w // MERGE)


Content = tuple[str | Visual, ...]


@dataclass(frozen=True)
class ChatTurn:
    """One turn; role is system, user or assistant."""

    role: str
    content: Content


@dataclass(frozen=True)
class EncodedChat:
    """A conversation, or a piece of one, as arrays.

    tokens int32 [T]; supervised bool [T], True where the token is a target; grids int32 [n, 3] of the
    visuals in order; turns int32 [T], the number of the turn each token belongs to.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    grids: np.ndarray
    turns: np.ndarray


class _Writer:
    """Collects tokens; text is held back until the stretch it belongs to is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._supervised: list[bool] = []
        self._turns: list[int] = []
        self._grids: list[tuple[int, int, int]] = []
        self._text = ""
        self.turn = 0

    def text(self, text: str) -> None:
        self._text += text

    def ids(self, ids: Sequence[int], target: bool = False) -> None:
        self.flush()
        self._put(ids, target)

    def flush(self, target: bool = False) -> None:
        text, self._text = self._text, ""
        if text:
            self._put(self._tokenizer.encode(text), target)

    def visual(self, visual: Visual) -> None:
        special = self._tokenizer.special
        pad = special.video_pad if visual.kind == "video" else special.image_pad
        self.ids([special.vision_start, *[pad] * visual.tokens, special.vision_end])
        self._grids.append(visual.grid)

    def _put(self, ids: Sequence[int], target: bool) -> None:
        self._tokens.extend(ids)
        self._supervised.extend([target] * len(ids))
        self._turns.extend([self.turn] * len(ids))

    def done(self) -> EncodedChat:
        self.flush()
        return EncodedChat(
            np.array(self._tokens, np.int32),
            np.array(self._supervised, bool),
            np.array(self._grids, np.int32).reshape(-1, 3),
            np.array(self._turns, np.int32),
        )


def _with_system(turns: Sequence[ChatTurn]) -> Sequence[ChatTurn]:
    if turns and turns[0].role == "system":
        return turns
    return [ChatTurn("system", (SYSTEM_PROMPT,)), *turns]


class ChatTemplate:
    """Qwen2-VL's chat template over a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        remembered = functools.lru_cache(COUNTS_KEPT)
        self._counted = remembered(self._count_turn)
        self._asked = remembered(
            lambda start_us, stop_us: self._count_turn("user", (turn_label(start_us, stop_us), None))[0]
        )
        self._said = remembered(self._count_said)

    def conversation(self, turns: Sequence[ChatTurn]) -> EncodedChat:
        """A whole conversation, answers and their `<|im_end|>` supervised.

        The default system turn is added unless the first turn is one. Turn 0 is the system's.
        """
        writer = _Writer(self.tokenizer)
        for writer.turn, turn in enumerate(_with_system(turns)):
            self._turn(writer, turn)
        return writer.done()

    def count(self, turns: Sequence[ChatTurn]) -> tuple[int, int]:
        """Tokens and supervised tokens of `conversation(turns)`, without making it.

        Turns are counted one by one, and the same turns come again and again in a corpus.
        """
        tokens = targets = 0
        for turn in _with_system(turns):
            kept = []
            for item in turn.content:
                if isinstance(item, Visual):
                    tokens += item.tokens
                    item = None
                kept.append(item)
            more = self._counted(turn.role, tuple(kept))
            tokens, targets = tokens + more[0], targets + more[1]
        return tokens, targets

    def count_stream(
        self, turns: Sequence[Turn], rows_cols: tuple[int, int], prompt: str
    ) -> tuple[int, int]:
        """As `count(stream_conversation(turns, rows_cols, prompt))`, in a fraction of the time."""
        tokens, targets = self.count(stream_conversation(turns[:1], rows_cols, prompt))
        pair = (rows_cols[0] // MERGE) * (rows_cols[1] // MERGE)
        for turn in turns[1:]:
            said, more = self._said(turn.text)
            tokens += self._asked(turn.start_us, turn.stop_us) + turn.num_frames // 2 * pair + said
            targets += more
        return tokens, targets

    @functools.cached_property
    def _around_answer(self) -> int:
        """Tokens of an assistant turn beside what it says; no text is tokenised across that."""
        return self._count_turn("assistant", (SILENCE,))[0] - len(self.tokenizer.encode(SILENCE))

    def _count_said(self, text: str) -> tuple[int, int]:
        """Tokens and supervised tokens of a streaming answer."""
        said = len(self.tokenizer.encode(text + SILENCE))
        return self._around_answer + said, said + 1  # and its <|im_end|>

    def _count_turn(self, role: str, content: tuple[str | None, ...]) -> tuple[int, int]:
        """As `count`, of one turn and without the visuals' own tokens; None stands for a visual."""
        one = Visual("video", (1, MERGE, MERGE))
        writer = _Writer(self.tokenizer)
        self._turn(writer, ChatTurn(role, tuple(one if c is None else c for c in content)))
        made = writer.done()
        return len(made.tokens) - content.count(None), int(made.supervised.sum())

    def opening(self, content: Content) -> EncodedChat:
        """System turn, first user turn, header of the answer: what a stream starts from."""
        writer = _Writer(self.tokenizer)
        self._turn(writer, ChatTurn("system", (SYSTEM_PROMPT,)))
        self._ask(writer, content)
        return writer.done()

    def continuation(self, content: Content) -> EncodedChat:
        """The end of an answer, the next user turn, header of the next answer."""
        writer = _Writer(self.tokenizer)
        self._end(writer)
        self._ask(writer, content)
        return writer.done()

    def _ask(self, writer: _Writer, content: Content) -> None:
        self._turn(writer, ChatTurn("user", content))
        self._header(writer, "assistant")

    def _header(self, writer: _Writer, role: str) -> None:
        writer.ids([self.tokenizer.special.im_start])
        writer.text(f"{role}\n")

    def _end(self, writer: _Writer, target: bool = False) -> None:
        writer.ids([self.tokenizer.special.im_end], target)
        writer.text("\n")
        writer.flush()  # the newline is this turn's

    def _turn(self, writer: _Writer, turn: ChatTurn) -> None:
        answer = turn.role == "assistant"
        self._header(writer, turn.role)
        if answer:
            writer.flush()
        for item in turn.content:
            if isinstance(item, Visual):
                writer.visual(item)
            else:
                writer.text(item)
        writer.flush(target=answer)
        self._end(writer, target=answer)


def stream_conversation(
    turns: Sequence[Turn], rows_cols: tuple[int, int], prompt: str
) -> list[ChatTurn]:
    """The turns of a streaming example as a conversation.

    Args:
        turns: from `plan_turns`.
        rows_cols: patches of a frame, vertically and horizontally.
        prompt: from `stream_prompt`; follows the first video, nothing if empty.
    """
    chat: list[ChatTurn] = []
    for i, turn in enumerate(turns):
        seen = Visual("video", (turn.num_frames // 2, *rows_cols))
        asked = (prompt,) if prompt and i == 0 else ()
        chat.append(ChatTurn("user", (turn_label(turn.start_us, turn.stop_us), seen, *asked)))
        chat.append(ChatTurn("assistant", (turn.answer,)))
    return chat
