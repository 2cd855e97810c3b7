"""Multiple-choice questions about videos: the data classes and the text of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog

ANSWER_INSTRUCTION = "\nPlease select the correct answer."
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class VideoSource:
    """A video file, or a folder of numbered frames, or a span of one of them.

    Attributes:
        path: The file or the folder.
        start_us: Start of the span in microseconds; None is the beginning of the video.
        end_us: End of the span in microseconds; None is the end of the video.
        clamp: Whether a span outside the video is moved into it and made at least a second long, as
            OVO-Bench needs; otherwise such a span is an error.
        frames_per_second: Frame rate of a folder of frames.
        media_root: Confines the path; None does not.
    """

    path: str
    start_us: int | None = None
    end_us: int | None = None
    clamp: bool = False
    frames_per_second: float = 3.0
    media_root: MediaRoot | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Question:
    """A multiple-choice question about a video.

    Attributes:
        id: Identifier, unique in the benchmark.
        source: The video.
        text: The user's text, which follows the video in the prompt.
        options: Strings whose logits are compared after the answer prefix.
        responses: The response that the results file has for each option.
        answer: The right response.
        result_fields: Other fields of the question in the results file.
    """

    id: str
    source: VideoSource
    text: str
    options: tuple[str, ...]
    responses: tuple[str, ...]
    answer: str
    result_fields: dict[str, Any]


@dataclass(frozen=True)
class PromptTemplate:
    """How a benchmark prompts for an answer.

    Attributes:
        answer_prefix: First words of the answer, given to the model; the option follows them.
        option_prefix: Text that precedes an option when the token of the option is looked up.
    """

    answer_prefix: str = "Answer:"
    option_prefix: str = ": "


@dataclass
class QuestionSet:
    """All questions of a benchmark.

    Attributes:
        annotation: The file, or the folder of files, that they were read from.
        questions: The questions in file order.
        problem_log: Records that could not be used.
    """

    annotation: Path
    questions: list[Question] = field(default_factory=list)
    problem_log: ProblemLog = field(default_factory=ProblemLog)

    def __post_init__(self) -> None:
        self._ids: set[str] = set()

    def add(self, question: Question) -> None:
        """Append a question; one with an id that exists already is counted and dropped."""
        if question.id in self._ids:
            self.problem_log.add_problem("duplicate", f"{question.id} is asked more than once")
            return
        self._ids.add(question.id)
        self.questions.append(question)


def with_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Returns the options, each beginning with its letter, as in `A. ...`; letters are not doubled."""
    return tuple(
        option if option[:2] == f"{letter}." else f"{letter}. {option}"
        for letter, option in zip(LETTERS, options)
    )


def format_question(question: str, options: Sequence[str], subtitles: str | None = None) -> str:
    """Returns the user's text: the subtitles if there are any, the question, the options one a line,
    and the instruction to select one."""
    query = question + "\n" + "\n".join(options) + ANSWER_INSTRUCTION
    if subtitles is None:
        return query
    return (
        f"This video's subtitles are listed below:\n{subtitles}\n"
        f"According to the video and subtitles, {query}"
    )
