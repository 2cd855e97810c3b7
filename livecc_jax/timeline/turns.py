"""Timed words and sampled frames into turns: who is seen when, and what is said then.

LiveCC (arXiv 2504.16030), section 3: the first turn holds three seconds, six frames at 2 FPS; each
later turn one second, two frames. Times are integer microseconds, so every comparison is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from livecc_jax.errors import ExampleError
from livecc_jax.text.tokenizer import SILENCE
from livecc_jax.timeline.example import Word

OPENING_FRAMES = 6
TURN_FRAMES = 2
OPENING_US = 3_000_000
TURN_US = 1_000_000


class Turn(NamedTuple):  # quick to make: there are hundreds a clip
    """A span of the clip, its frames and its words.

    start_us and stop_us are relative to the clip's start and nominal (0 to 3 s, then each second);
    frames first_frame, ..., first_frame + num_frames - 1 of the sampled ones are shown; text is the
    words joined by spaces, empty when nothing is said.
    """

    start_us: int
    stop_us: int
    first_frame: int
    num_frames: int
    text: str

    @property
    def answer(self) -> str:
        """What the assistant says: the words, then the silence mark."""
        return self.text + SILENCE


def turn_span(number: int) -> tuple[int, int]:
    """Start and stop of turn 0, 1, ... in microseconds since the clip's start."""
    if number == 0:
        return 0, OPENING_US
    start = OPENING_US + (number - 1) * TURN_US
    return start, start + TURN_US


def split_into_turns(frames: np.ndarray) -> list[np.ndarray]:
    """[F, ...] as turns: six frames, or all there are, then two each; an odd last one is dropped."""
    starts = [0, *range(OPENING_FRAMES, len(frames) - 1, TURN_FRAMES)]
    return [frames[i : i + (TURN_FRAMES if i else OPENING_FRAMES)] for i in starts]


def turn_label(start_us: int, stop_us: int) -> str:
    """The text that opens a user turn, `Time=0.0-3.0s`."""
    return f"Time={start_us / 1e6:.1f}-{stop_us / 1e6:.1f}s"


def check_words(words: Sequence[Word]) -> None:
    """Raise ExampleError when a word ends before it starts or before the word before it ends."""
    for i, word in enumerate(words):
        if word.end_us < word.start_us:
            raise ExampleError(
                f"word {i} ({word.text!r}) ends at {word.end_us / 1e6:g} s, "
                f"before it starts at {word.start_us / 1e6:g} s"
            )
        if i and (word.end_us < words[i - 1].end_us or word.start_us < words[i - 1].start_us):
            raise ExampleError(
                f"word {i} ({word.text!r}, {word.start_us / 1e6:g}-{word.end_us / 1e6:g} s) "
                f"runs backwards: it comes after {words[i - 1].text!r} "
                f"({words[i - 1].start_us / 1e6:g}-{words[i - 1].end_us / 1e6:g} s)"
            )


def assign_words(last_times_us: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """The turn of each word: the first whose last frame's time is at or after the word's end.

    Args:
        last_times_us: int64 [n], time of each turn's last frame.
        words: in order.

    Returns:
        int64 [words], ascending; n for a word that ends after the last turn.
    """
    ends = np.array([w.end_us for w in words], np.int64)
    return np.searchsorted(last_times_us, ends, side="left")


def build_turns(frame_times_us: np.ndarray, words: Sequence[Word]) -> list[Turn]:
    """Assign words to turns.

    A word belongs to the first turn whose last frame's time is at or after the word's end; a word that
    ends after the last frame belongs to none. Trailing silent turns are dropped.

    Args:
        frame_times_us: int64 [F], times in the file of the sampled frames, F even.
        words: in order, with times in the file.

    Returns:
        At least one turn; the last one says something.

    Raises:
        ExampleError: fewer than 6 frames, no word in any turn, or words out of order.
    """
    frames = len(frame_times_us)
    if frames < OPENING_FRAMES:
        raise ExampleError(
            f"the clip has {frames} frames at 2 FPS and needs at least {OPENING_FRAMES} (3 s)"
        )
    check_words(words)
    # The first frame of each turn; a clip's frames are even in number, so the last turn is whole.
    firsts = [0, *range(OPENING_FRAMES, frames - 1, TURN_FRAMES)]
    lasts = [first - 1 for first in firsts[1:]] + [frames - 1]
    owners = assign_words(np.asarray(frame_times_us)[lasts], words)
    said: list[list[str]] = [[] for _ in firsts]
    for word, owner in zip(words, owners):
        text = word.text.strip()
        if text and owner < len(said):
            said[owner].append(text)
    while said and not said[-1]:
        said.pop()
    if not said:
        raise ExampleError("nothing is said within the clip")
    return [
        Turn(*turn_span(i), firsts[i], lasts[i] - firsts[i] + 1, " ".join(said[i]))
        for i in range(len(said))
    ]


def stream_prompt(query: str = "", title: str = "", previous: str = "", context: bool = True) -> str:
    """The text after the first turn's video: query, then title or previous commentary.

    The title gives way to previous commentary when there is some: the paper's "title or previous".
    `context=False` leaves both out, as the released pre-training script does.
    """
    if not context:
        return query.strip()
    return f"{query}\n{'' if previous else title}\n{previous}".strip()
