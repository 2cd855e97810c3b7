"""Scored answers of any benchmark, and a count of the problems in the file they were read from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

MAX_NOTES = 5  # problems of a kind that are described; later ones are only counted


@dataclass
class ProblemLog:
    """What was wrong with a file.

    Attributes:
        problems: Number of problems of each kind.
        notes: Descriptions of the first MAX_NOTES problems of each kind.
    """

    problems: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add_problem(self, kind: str, note: str = "") -> None:
        """Count a problem, and describe it if it is one of the first of its kind."""
        self.problems[kind] += 1
        if note and self.problems[kind] <= MAX_NOTES:
            self.notes.append(f"{kind}: {note}")


@dataclass(frozen=True)
class AnswerText:
    """What a results file says of an answer, for people to read; scoring does not look at it.

    Attributes:
        question: The question; empty if the file does not have it.
        options: The options with their letters; empty if the file does not have them.
        answer: The right answer, as the file spells it.
        response: The response as it was given; empty if there is none.
    """

    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    response: str = ""


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer, scored by the rule of its benchmark.

    Attributes:
        id: Identifier of the question, unique in the benchmark.
        cluster: The unit that the bootstrap resamples: the video.
        labels: Value of each facet, such as `duration` or `task`.
        correct: Whether the answer is right.
        answered: Whether the rule could read an answer out of the response.
        in_denominator: Whether the rule includes this answer in the denominator.
        text: The question and the answers in words, if the file has them.
    """

    id: str
    cluster: str
    labels: dict[str, str]
    correct: bool
    answered: bool = True
    in_denominator: bool = True
    text: AnswerText = AnswerText()

    @property
    def chance(self) -> float:
        """Probability that a guess among the options is right; nan if the options are not known."""
        return 1 / len(self.text.options) if len(self.text.options) > 1 else math.nan


@dataclass
class ScoredAnswers(ProblemLog):
    """All scored answers of a results file.

    Attributes:
        items: Answers in file order, with duplicates, because the published scoring counts those.
        expected: Number of questions in the benchmark, if it is known.
    """

    items: list[ScoredAnswer] = field(default_factory=list)
    expected: int | None = None
    _ids: set[str] = field(default_factory=set)

    def add(self, answer: ScoredAnswer) -> None:
        """Append an answer; a second answer to the same question is also counted as a duplicate."""
        if answer.id in self._ids:
            self.add_problem("duplicate", f"{answer.id} is answered more than once")
        elif not answer.answered:
            self.add_problem("unanswered")
        self._ids.add(answer.id)
        self.items.append(answer)

    @property
    def distinct(self) -> int:
        """Number of different questions, whether answered or not."""
        return len(self._ids)

    @property
    def missing(self) -> int:
        """Number of questions that have no usable answer in the file; 0 if the total is unknown."""
        return max(0, (self.expected or 0) - self.distinct)

    def first_by_id(self) -> dict[str, ScoredAnswer]:
        """Returns the first answer to each question, by its id, as comparisons of two runs need it."""
        answers: dict[str, ScoredAnswer] = {}
        for answer in self.items:
            answers.setdefault(answer.id, answer)
        return answers
