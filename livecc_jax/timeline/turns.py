"""Divides sampled frames and timed words into turns.

As in LiveCC (arXiv 2504.16030), section 3, the first turn spans three seconds, six frames at 2 FPS;
each later turn spans one second, two frames. Times are integer microseconds, so comparisons are exact.
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
# Words of speech recognisers run backwards by a few hundredths of a second, now and then by tenths. The
# bound is the time between two frames, so that no word moves by more than one of them.
MAX_BACKWARD_US = 500_000
BEFORE_ALL_US = -(1 << 62)


class Turn(NamedTuple):  # fast to create: a clip has hundreds
    """A span of the clip, its frames and its words.

    Attributes:
        start_us: Nominal start in microseconds since the clip's start (0 s, then 3 s, 4 s, ...).
        stop_us: Nominal end in microseconds since the clip's start.
        first_frame: Number of its first frame among the sampled frames.
        num_frames: Number of its frames.
        text: Its words joined by spaces; empty when nothing is said.
    """

    start_us: int
    stop_us: int
    first_frame: int
    num_frames: int
    text: str

    @property
    def answer(self) -> str:
        """The assistant's answer: the words, then the silence mark."""
        return self.text + SILENCE


def turn_span(number: int) -> tuple[int, int]:
    """Returns start and stop of turn 0, 1, ... in microseconds since the clip's start."""
    if number == 0:
        return 0, OPENING_US
    start = OPENING_US + (number - 1) * TURN_US
    return start, start + TURN_US


def turn_first_frames(num_frames: int) -> list[int]:
    """Returns the number of the first frame of each turn; an odd last frame begins no turn."""
    return [0, *range(OPENING_FRAMES, num_frames - 1, TURN_FRAMES)]


def split_into_turns(frames: np.ndarray) -> list[np.ndarray]:
    """Split frames [F, ...] into turns of six frames (or fewer, if F is), then of two each.

    An odd last frame is dropped.
    """
    first_frames = turn_first_frames(len(frames))
    return [frames[i : i + (TURN_FRAMES if i else OPENING_FRAMES)] for i in first_frames]


def turn_label(start_us: int, stop_us: int) -> str:
    """Returns the text that begins a user turn, `Time=0.0-3.0s`."""
    return f"Time={start_us / 1e6:.1f}-{stop_us / 1e6:.1f}s"


def pair_seconds(start_us: int, num_frames: int) -> tuple[float, ...]:
    """Returns the nominal time of each frame pair of a turn: the mean of its two frames' times.

    Args:
        start_us: Nominal start of the turn in microseconds since the clip's start.
        num_frames: Number of its frames, which follow one another by half a second.
    """
    return tuple(start_us / 1e6 + pair + 0.25 for pair in range(num_frames // TURN_FRAMES))


def check_words(words: Sequence[Word]) -> None:
    """Raises ExampleError when a word ends before it starts, or when words are out of order."""
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


def order_words(words: Sequence[Word]) -> tuple[tuple[Word, ...], int]:
    """Puts words in order that run backwards a little, as those of speech recognisers do.

    A word runs backwards by the time by which it starts or ends earlier than any word before it, or
    ends before it starts. Start and end of a word are exchanged where they are the wrong way round, and
    words are sorted by their ends, which decide the turn of a word; then a start that lies before that
    of the word before becomes the same as that one.

    Args:
        words: The words as they were annotated.

    Returns:
        The words in order, and the number of those that ran backwards. Where one does so by
        MAX_BACKWARD_US or more, the words are returned as they are with the number 0: `check_words`
        rejects them.
    """
    latest_start = latest_end = BEFORE_ALL_US
    count = 0
    for start, end, _ in words:
        backward = max(latest_start - start, latest_end - end, start - end)
        if backward > 0:
            if backward >= MAX_BACKWARD_US:
                return tuple(words), 0
            count += 1
        latest_start = max(latest_start, min(start, end))
        latest_end = max(latest_end, start, end)
    if not count:
        return tuple(words), 0
    ordered: list[Word] = []
    latest_start = BEFORE_ALL_US
    for end, start, text in sorted(
        ((max(w.start_us, w.end_us), min(w.start_us, w.end_us), w.text) for w in words),
        key=lambda word: word[:2],
    ):
        latest_start = max(latest_start, start)
        ordered.append(Word(latest_start, end, text))
    return tuple(ordered), count


def assign_words(last_times_us: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Returns the turn of each word: the first whose last frame's time is at or after the word's end.

    Args:
        last_times_us: int64 [n], time of each turn's last frame in microseconds.
        words: The words, in order.

    Returns:
        int64 [words], ascending; n for a word that ends after the last turn.
    """
    ends = np.array([w.end_us for w in words], np.int64)
    return np.searchsorted(last_times_us, ends, side="left")


def build_turns(frame_times_us: np.ndarray, words: Sequence[Word], silent_tail: int = 0) -> list[Turn]:
    """Assign words to turns.

    A word belongs to the first turn whose last frame's time is at or after the word's end; a word that
    ends after the last frame belongs to no turn. Silent turns at the end are dropped, as in LiveCC's
    training, but for the first `silent_tail` of them.

    Args:
        frame_times_us: int64 [F], times of the sampled frames in the file, F even.
        words: The words in order, with times in the file.
        silent_tail: Number of silent turns that may follow the last one with words. A model that never
            saw any talks on when a live stream falls silent.

    Returns:
        At least one turn; the last one has words, or is one of the silent tail.

    Raises:
        ExampleError: There are fewer than 6 frames, no turn has words, or words are out of order.
    """
    num_frames = len(frame_times_us)
    if num_frames < OPENING_FRAMES:
        raise ExampleError(
            f"the clip has {num_frames} frames at 2 FPS and needs at least {OPENING_FRAMES} (3 s)"
        )
    check_words(words)
    # The number of frames is even, so the last turn is complete.
    first_frames = turn_first_frames(num_frames)
    last_frames = [first - 1 for first in first_frames[1:]] + [num_frames - 1]
    word_turns = assign_words(np.asarray(frame_times_us)[last_frames], words)
    texts: list[list[str]] = [[] for _ in first_frames]
    for word, turn in zip(words, word_turns):
        text = word.text.strip()
        if text and turn < len(texts):
            texts[turn].append(text)
    if not any(texts):
        raise ExampleError("nothing is said within the clip")
    last = max(i for i, text in enumerate(texts) if text)
    del texts[last + 1 + silent_tail :]
    return [
        Turn(*turn_span(i), first_frames[i], last_frames[i] - first_frames[i] + 1, " ".join(text))
        for i, text in enumerate(texts)
    ]


def stream_prompt(query: str = "", title: str = "", previous: str = "", context: bool = True) -> str:
    """Returns the text after the first turn's video: the query, then the title or previous commentary.

    Args:
        query: The user's request.
        title: Title of the video; left out when there is previous commentary (the paper's "title or
            previous").
        previous: Commentary before the clip.
        context: Include title or previous commentary; the released pre-training script does not.
    """
    if not context:
        return query.strip()
    return f"{query}\n{'' if previous else title}\n{previous}".strip()
