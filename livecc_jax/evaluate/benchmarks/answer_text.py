"""Reads what a results file says of an answer in words: question, options, answer and response.

Nothing of it is scored, so a field that is absent or of another kind is left out, not refused.
"""

from __future__ import annotations

import re
from typing import Any

from livecc_jax.evaluate.benchmarks.questions import ANSWER_INSTRUCTION, LETTERS, with_letters
from livecc_jax.evaluate.benchmarks.record_fields import MalformedRecord, parse_string_list
from livecc_jax.evaluate.benchmarks.scored_answers import AnswerText

_OPTION_LINE = re.compile(rf"([{LETTERS}])\. ?.*")


def answer_text(
    record: dict[str, Any], answer: Any = None, options: tuple[str, ...] = ()
) -> AnswerText:
    """Returns the words of one record.

    Args:
        record: The record of a question in a results file.
        answer: The right answer, where it does not stand in the field `answer`.
        options: The options, where the record does not name them, such as Yes and No.
    """
    question = _text(record.get("question"))
    listed = _options_in(question)
    named = options or _options(record) or listed
    if listed and named == listed:  # they are shown as a list, so not in the question too
        lines = question.removesuffix(ANSWER_INSTRUCTION).split("\n")
        question = "\n".join(line for line in lines if not _OPTION_LINE.fullmatch(line))
    answer = record.get("answer") if answer is None else answer
    return AnswerText(question.strip(), named, _text(answer), _text(record.get("response")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _options(record: dict[str, Any]) -> tuple[str, ...]:
    """Returns the options of the field `options` with their letters."""
    if record.get("options") is None:
        return ()
    try:
        return with_letters(parse_string_list(record["options"]))
    except MalformedRecord:
        return ()


def _options_in(question: str) -> tuple[str, ...]:
    """Returns the options that a prompt lists, one a line, from A on; else nothing."""
    lines = tuple(line for line in question.split("\n") if _OPTION_LINE.fullmatch(line))
    in_order = [line[0] for line in lines] == list(LETTERS[: len(lines)])
    return lines if len(lines) > 1 and in_order else ()
