"""Encodes conversations as tokens, in the ChatML template that all families share.

As in HuggingFace, the text between one special token and the next is tokenised at once, except that an
answer is always tokenised separately from its prompt. So a prompt's tokens do not depend on whether
its answer is already known, and streaming has exactly the tokens of training.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from livecc_jax.families import DEFAULT
from livecc_jax.families.family import Family
from livecc_jax.families.qwen2_vl import MERGE, SYSTEM_PROMPT, TEMPORAL
from livecc_jax.text.tokenizer import SILENCE, Tokenizer
from livecc_jax.timeline.turns import Turn, pair_seconds, turn_label

MAX_CACHED_COUNTS = 1 << 15  # turns whose number of tokens is cached


@dataclass(frozen=True)
class Visual:
    """A video or an image in a message.

    Attributes:
        kind: Whether it is a video or an image.
        grid: Frame pairs, patch rows and patch columns.
        seconds: Time of each frame pair of a video in seconds since its start, which families with
            timestamps write before the pair.
    """

    kind: Literal["video", "image"]
    grid: tuple[int, int, int]
    seconds: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of its tokens."""
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
    """A conversation, or a part of one, as arrays.

    Attributes:
        tokens: int32 [T], token ids.
        supervised: bool [T], True where the token is a target.
        grids: int32 [n, 3], grid of each video and image, in order.
        turns: int32 [T], number of the turn that each token belongs to.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    grids: np.ndarray
    turns: np.ndarray


class _TokenWriter:
    """Collects tokens; text is buffered until the text to be tokenised at once is complete."""

    def __init__(self, tokenizer: Tokenizer, timestamps: bool) -> None:
        self._tokenizer, self._timestamps = tokenizer, timestamps
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
        self._append(ids, target)

    def flush(self, target: bool = False) -> None:
        text, self._text = self._text, ""
        if text:
            self._append(self._tokenizer.encode(text), target)

    def visual(self, visual: Visual) -> None:
        special = self._tokenizer.special
        pad = special.video_pad if visual.kind == "video" else special.image_pad
        self._grids.append(visual.grid)
        if not (self._timestamps and visual.kind == "video"):
            self.ids([special.vision_start, *[pad] * visual.tokens, special.vision_end])
            return
        pairs = visual.grid[0]
        if len(visual.seconds) != pairs:
            raise ValueError(f"{len(visual.seconds)} timestamps for {pairs} frame pairs")
        for seconds in visual.seconds:
            # The timestamp and the text before it are tokenised at once.
            self.text(f"<{seconds:.1f} seconds>")
            self.ids([special.vision_start, *[pad] * (visual.tokens // pairs), special.vision_end])

    def _append(self, ids: Sequence[int], target: bool) -> None:
        self._tokens.extend(ids)
        self._supervised.extend([target] * len(ids))
        self._turns.extend([self.turn] * len(ids))

    def finish(self) -> EncodedChat:
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
    """The chat template of a family, applied with one tokenizer.

    Args:
        tokenizer: The model's tokenizer.
        family: The model's family.
        pair_positions: Temporal positions from a frame pair to the next, for `token_positions`; None is
            the family's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        family: Family = DEFAULT,
        pair_positions: int | None = None,
    ) -> None:
        self.tokenizer, self.family, self.pair_positions = tokenizer, family, pair_positions
        cached = functools.lru_cache(MAX_CACHED_COUNTS)
        self._turn_counts = cached(self._count_turn)
        self._label_count = cached(self._count_label)
        self._stream_answer_counts = cached(self._count_stream_answer)

    def conversation(self, turns: Sequence[ChatTurn]) -> EncodedChat:
        """Encode a whole conversation, with answers and their `<|im_end|>` supervised.

        The default system turn is added unless the first turn is a system turn. Turn 0 is the system's.
        """
        writer = _TokenWriter(self.tokenizer, self.family.timestamps)
        for writer.turn, turn in enumerate(_with_system(turns)):
            self._write_turn(writer, turn)
        return writer.finish()

    def count(self, turns: Sequence[ChatTurn]) -> tuple[int, int]:
        """Returns the tokens and supervised tokens of `conversation(turns)`, without encoding it.

        Turns are counted one by one and cached, because many turns of a corpus are equal.
        """
        tokens = targets = 0
        for turn in _with_system(turns):
            tokens += sum(item.tokens for item in turn.content if isinstance(item, Visual))
            turn_tokens, turn_targets = self._turn_counts(
                turn.role, tuple(self._smallest(item) for item in turn.content)
            )
            tokens, targets = tokens + turn_tokens, targets + turn_targets
        return tokens, targets

    def count_stream(
        self, turns: Sequence[Turn], rows_cols: tuple[int, int], prompt: str
    ) -> tuple[int, int]:
        """As `count(stream_conversation(turns, rows_cols, prompt))`, in a fraction of the time."""
        tokens, targets = self.count(stream_conversation(turns[:1], rows_cols, prompt))
        pair_tokens = (rows_cols[0] // MERGE) * (rows_cols[1] // MERGE)
        for turn in turns[1:]:
            answer_tokens, answer_targets = self._stream_answer_counts(turn.text)
            tokens += self._label_count(turn.start_us, turn.stop_us, turn.num_frames)
            tokens += turn.num_frames // TEMPORAL * pair_tokens + answer_tokens
            targets += answer_targets
        return tokens, targets

    def _smallest(self, item: str | Visual) -> str | Visual:
        """Returns a visual of one token a pair with the same text around it, so that many are equal."""
        if isinstance(item, str):
            return item
        if not (self.family.timestamps and item.kind == "video"):
            return Visual("image", (1, MERGE, MERGE))
        return Visual("video", (item.grid[0], MERGE, MERGE), item.seconds)

    def _count_turn(self, role: str, content: Content) -> tuple[int, int]:
        """As `count`, for one turn and without the tokens of visuals."""
        writer = _TokenWriter(self.tokenizer, self.family.timestamps)
        self._write_turn(writer, ChatTurn(role, content))
        encoded = writer.finish()
        visual_tokens = sum(item.tokens for item in content if isinstance(item, Visual))
        return len(encoded.tokens) - visual_tokens, int(encoded.supervised.sum())

    def _count_label(self, start_us: int, stop_us: int, num_frames: int) -> int:
        """Returns the tokens of a later user turn of a stream, without those of its frames."""
        grid = (num_frames // TEMPORAL, MERGE, MERGE)
        visual = self._smallest(Visual("video", grid, pair_seconds(start_us, num_frames)))
        return self._count_turn("user", (turn_label(start_us, stop_us), visual))[0]

    def _count_stream_answer(self, text: str) -> tuple[int, int]:
        """Returns the tokens and supervised tokens of a streaming answer."""
        answer_tokens = len(self.tokenizer.encode(text + SILENCE))
        # The answer's <|im_end|> is supervised too.
        return self._assistant_overhead + answer_tokens, answer_tokens + 1

    @functools.cached_property
    def _assistant_overhead(self) -> int:
        """Tokens of an assistant turn beside its answer, which is tokenised separately from them."""
        return self._count_turn("assistant", (SILENCE,))[0] - len(self.tokenizer.encode(SILENCE))

    def opening(self, content: Content) -> EncodedChat:
        """Encode the start of a stream: system turn, first user turn, header of the answer."""
        writer = _TokenWriter(self.tokenizer, self.family.timestamps)
        self._write_turn(writer, ChatTurn("system", (SYSTEM_PROMPT,)))
        self._write_prompt(writer, content)
        return writer.finish()

    def continuation(self, content: Content) -> EncodedChat:
        """Encode the end of an answer, the next user turn, and the header of the next answer."""
        writer = _TokenWriter(self.tokenizer, self.family.timestamps)
        self._write_end(writer)
        self._write_prompt(writer, content)
        return writer.finish()

    def _write_prompt(self, writer: _TokenWriter, content: Content) -> None:
        self._write_turn(writer, ChatTurn("user", content))
        self._write_header(writer, "assistant")

    def _write_header(self, writer: _TokenWriter, role: str) -> None:
        writer.ids([self.tokenizer.special.im_start])
        writer.text(f"{role}\n")

    def _write_end(self, writer: _TokenWriter, target: bool = False) -> None:
        writer.ids([self.tokenizer.special.im_end], target)
        writer.text("\n")
        writer.flush()  # so that the newline belongs to this turn

    def _write_turn(self, writer: _TokenWriter, turn: ChatTurn) -> None:
        is_answer = turn.role == "assistant"
        self._write_header(writer, turn.role)
        if is_answer:
            writer.flush()
        for item in turn.content:
            if isinstance(item, Visual):
                writer.visual(item)
            else:
                writer.text(item)
        writer.flush(target=is_answer)
        self._write_end(writer, target=is_answer)


def stream_conversation(
    turns: Sequence[Turn], rows_cols: tuple[int, int], prompt: str
) -> list[ChatTurn]:
    """Returns the turns of a streaming example as a conversation.

    Args:
        turns: Turns from `build_turns`.
        rows_cols: Patches of a frame, vertically and horizontally.
        prompt: Text from `stream_prompt`, which follows the first video; may be empty.
    """
    chat: list[ChatTurn] = []
    for i, turn in enumerate(turns):
        grid = (turn.num_frames // TEMPORAL, *rows_cols)
        visual = Visual("video", grid, pair_seconds(turn.start_us, turn.num_frames))
        text = (prompt,) if prompt and i == 0 else ()
        chat.append(ChatTurn("user", (turn_label(turn.start_us, turn.stop_us), visual, *text)))
        chat.append(ChatTurn("assistant", (turn.answer,)))
    return chat
