"""The texts of a match as annotations: clips of clean transcripts or noisy captions, and questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from livecc_jax.errors import ConfigError
from livecc_jax.world.facts import TimedWord
from livecc_jax.world.questions import WorldQuestion

CONTEXTS = ("either", "both", "title", "previous", "none")
QUERY = "Comment on the match in the {style} style."
STEP = 0.5  # seconds between frames that are shown; clips begin and end on such frames


@dataclass(frozen=True)
class ClipOptions:
    """How a match is cut into annotated clips.

    Attributes:
        seconds: Shortest and longest clip; a match that is no longer than the longest is one clip.
        trailing: Seconds by which a clip's end may lie after its last word; None keeps the whole clip.
        context: What a clip is given: the title and what was said before (`both` lists both in
            `previous`; `either` gives both fields, of which training shows the title only where nothing
            was said before), one of them, or nothing.
        previous_words: Most words of what was said before, the latest.
    """

    seconds: tuple[float, float] = (30.0, 240.0)
    trailing: float | None = None
    context: str = "either"
    previous_words: int = 200

    def __post_init__(self) -> None:
        low, high = self.seconds
        if not 5.0 <= low <= high <= 240.0:
            raise ConfigError(f"clips last from 5 to 240 seconds, not {low:g} to {high:g}")
        if self.context not in CONTEXTS:
            raise ConfigError(
                f"there is no context {self.context!a:.40}: they are {', '.join(CONTEXTS)}"
            )
        if (self.trailing or 0.0) < 0 or self.previous_words < 0:
            raise ConfigError("neither the silence after words nor the words before may be negative")


@dataclass(frozen=True)
class Clip:
    """A stretch of a match with the words in it.

    Attributes:
        start: Its first moment in seconds of the video.
        end: Its last moment.
        words: (start, end, word), in seconds of the video.
        previous: What was said before it.
    """

    start: float
    end: float
    words: tuple[TimedWord, ...]
    previous: str


def cut_clips(
    words: Sequence[TimedWord],
    before: Sequence[str],
    seconds: float,
    frame_seconds: float,
    options: ClipOptions,
    seed: int,
) -> list[Clip]:
    """Cuts a match into clips, between two utterances each.

    Args:
        words: (start, end, word) of the whole match.
        before: Words that were said before the match.
        seconds: Length of the match.
        frame_seconds: Duration of a video's frame; clips begin with a frame that stored frames hold.
        options: How to cut.
        seed: Determines the lengths, together with the options.
    """
    low, high = options.seconds
    rng = np.random.default_rng([seed, 51])
    # A clip begins at a frame of the grid on which stored frames lie, in the middle of a pause.
    bounds = [0.0]
    ends = np.array([end for _, end, _ in words])
    starts = np.array([start for start, _, _ in words])
    while seconds - bounds[-1] > high:
        target = bounds[-1] + float(rng.uniform(low, high))
        target = min(target, seconds - low) if seconds - low > bounds[-1] + low else target
        grid = np.arange(np.ceil((bounds[-1] + low) / STEP), np.floor((bounds[-1] + high) / STEP) + 1)
        grid = grid * STEP + frame_seconds
        # No word may be cut in two: every word ends before or starts after the bound.
        free = [g for g in grid if not ((starts < g) & (ends > g - frame_seconds)).any()]
        bounds.append(round(float(min(free or grid, key=lambda g: abs(g - target))), 6))
    bounds.append(seconds)
    clips = []
    spoken = [word for _, _, word in words]
    for start, stop in pairwise(bounds):
        chosen = [i for i, word in enumerate(words) if start <= word[0] and word[1] <= stop]
        if not chosen:
            continue
        end = stop
        if options.trailing is not None:
            end = min(stop, round(words[chosen[-1]][1] + options.trailing, 3))
        earlier = [*before, *spoken[: chosen[0]]]
        keep = max(len(earlier) - options.previous_words, 0)
        clip_words = tuple(words[i] for i in chosen)
        clips.append(Clip(start, end, clip_words, " ".join(earlier[keep:])))
    return clips


def stream_annotation(clip: Clip, video: str, title: str, query: str, style: str, context: str) -> list:
    """Returns a clip as a streaming conversation of an annotation file."""
    previous = clip.previous
    if context == "both" and previous:
        previous = f"{title}\n{previous}"
    text: dict[str, Any] = {
        "type": "text",
        "text": query,
        "title": "" if context in ("none", "previous") else title,
        "previous": "" if context in ("none", "title") else previous,
        "category": style,
    }
    return [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": video, "video_start": clip.start, "video_end": clip.end},
                text,
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text_stream", "text_stream": [list(word) for word in clip.words]}],
        },
    ]


def choice_text(question: WorldQuestion) -> str:
    """Returns the question with its options, as multiple-choice benchmarks put it."""
    return "\n".join([question.text, *_lettered(question), "Please select the correct answer."])


def _lettered(question: WorldQuestion) -> list[str]:
    return [f"{letter}. {option}" for letter, option in zip("ABCD", question.options)]


def question_annotation(question: WorldQuestion, video: str, choice: bool) -> list:
    """Returns a question as a conversation of an annotation file.

    Args:
        question: The question.
        video: Path of the video.
        choice: Whether the options are listed and the answer is `Answer: A`; otherwise it is in words.
    """
    text = choice_text(question) if choice else question.text
    answer = f"Answer: {question.letter}" if choice else question.answer
    video_item = {"type": "video", "video": video, "video_start": 0.0, "video_end": question.end}
    return [
        {"role": "user", "content": [video_item, {"type": "text", "text": text}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def commentary_record(clip: Clip, name: str, number: int, video: str, title: str) -> dict[str, Any]:
    """Returns a clip in the layout of LiveSports-3K CC, for `livecc evaluate livesports-cc`."""
    return {
        "video_id": name,
        "event_id": number,
        "video": video,
        "begin": clip.start,
        "end": clip.end,
        "event_title": title,
        "preasr_text": clip.previous,
        "event_asr": [list(word) for word in clip.words],
    }


def question_record(question: WorldQuestion, name: str, number: int, video: str) -> dict[str, Any]:
    """Returns a question in the layout of LiveSports-3K QA, for `livecc evaluate livesports-qa`."""
    return {
        "video_id": name,
        "question_id": number,
        "video": video,
        "q_type": question.kind,
        "OCR": 0,
        "question": question.text,
        "options": _lettered(question),
        "answer": question.letter,
        "video_start": 0.0,
        "video_end": question.end,
    }
