"""The part of a report that shows wrong answers: frames, question, options, and what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest

from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswer
from livecc_jax.evaluate.metrics.score import BenchmarkScore
from livecc_jax.evaluate.report.thumbnails import question_thumbnails
from livecc_jax.reports.page import Block, Case, Details, Heading, Option, Text

MAX_WRONG_ANSWERS = 24
MAX_QUESTION = 1500  # letters that are shown; a prompt with subtitles may have tens of thousands
LABELS_IN_TITLE = ("task_type", "task", "q_type")


def wrong_answer_blocks(score: BenchmarkScore, sources: Mapping[str, VideoSource]) -> list[Block]:
    """Returns some of the wrong answers, the same number of each group as far as there are so many.

    Args:
        score: The scored results file.
        sources: Video of each question by its id, of those whose video is known.
    """
    wrong = [a for a in score.answers.first_by_id().values() if not a.correct and a.text.response]
    wrong = [a for a in wrong if a.text.question or a.text.options]
    if not wrong:
        return []
    shown = choose_evenly(wrong)
    return [
        Heading("Wrong answers"),
        Text(
            f"{len(shown):,} of the {len(wrong):,} answers that were given and are wrong, "
            "taken in turn from every group."
        ),
        Details("Show them", [_case(answer, sources) for answer in shown]),
    ]


def choose_evenly(answers: list[ScoredAnswer], most: int = MAX_WRONG_ANSWERS) -> list[ScoredAnswer]:
    """Returns the first answer of every group, then the second of every group, and so on.

    Args:
        answers: Answers in order.
        most: The number to choose.
    """
    groups: dict[str, list[ScoredAnswer]] = {}
    for answer in answers:
        groups.setdefault(_group(answer), []).append(answer)
    rounds = chain.from_iterable(zip_longest(*groups.values()))
    return [answer for answer in rounds if answer is not None][:most]


def _group(answer: ScoredAnswer) -> str:
    return next((answer.labels[k] for k in LABELS_IN_TITLE if k in answer.labels), "")


def _case(answer: ScoredAnswer, sources: Mapping[str, VideoSource]) -> Case:
    text = answer.text
    options = [
        Option(o, right=_names(text.answer, o), chosen=_names(text.response, o)) for o in text.options
    ]
    facts = [("response", text.response)]
    if not any(option.right for option in options):
        facts.append(("right answer", text.answer))
    source = sources.get(answer.id)
    title = " · ".join(filter(None, [answer.id, _group(answer)]))
    question = text.question
    if len(question) > MAX_QUESTION:
        question = f"… {question[-MAX_QUESTION:]}"
    return Case(title, question_thumbnails(source) if source else [], question, options, facts)


def _names(answer: str, option: str) -> bool:
    """Whether an answer names an option: by its letter, or by all of it."""
    answer, option = answer.strip().casefold(), option.strip().casefold()
    letter = option[:1] if option[1:2] == "." else option
    return bool(answer) and (answer == option or answer.rstrip(".):") == letter)
