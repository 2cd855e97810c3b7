"""Judges pairs of commentaries in both orders, with parallel requests and a cache of answers."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from livecc_jax.evaluate.judge.answer_cache import AnswerCache
from livecc_jax.evaluate.judge.judge_model import (
    Completion,
    EndpointError,
    JudgeModel,
    RequestFailed,
)
from livecc_jax.evaluate.judge.prompt import fill_prompt, parse_verdict
from livecc_jax.evaluate.metrics.verdicts import ORDERS, TIE

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAILURES = 10  # after so many, the endpoint is considered down


@dataclass(frozen=True)
class CommentaryPair:
    """Two commentaries on one event, and the human one.

    Attributes:
        event: Identifier of the event.
        model: Commentary of the judged model.
        baseline: Commentary of the baseline.
        human: Commentary of the human, the reference.
    """

    event: str
    model: str
    baseline: str
    human: str


class _Comparison(NamedTuple):
    """One request: a pair in one order."""

    pair: int  # index of the pair
    order: str  # "ab": the model stands first; "ba": the baseline does


@dataclass
class JudgingResult:
    """Verdicts, and what it took to get them.

    Attributes:
        verdicts: One record for each pair, in the published layout.
        new_answers: Number of answers that were requested.
        cached_answers: Number of answers that came from the cache.
        without_verdict: Number of comparisons without a readable answer.
        new_prompt_tokens: Prompt tokens of the new answers.
        new_completion_tokens: Generated tokens of the new answers.
        prompt_tokens: Prompt tokens of all answers.
        completion_tokens: Generated tokens of all answers.
        judge_models: Number of answers by model, as the server names it.
        dates: Dates of the answers.
    """

    verdicts: list[dict[str, str | None]] = field(default_factory=list)
    new_answers: int = 0
    cached_answers: int = 0
    without_verdict: int = 0
    new_prompt_tokens: int = 0
    new_completion_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    judge_models: Counter[str] = field(default_factory=Counter)
    dates: set[str] = field(default_factory=set)

    def add_answer(self, answer: dict[str, Any], cached: bool) -> None:
        """Counts one answer record."""
        if cached:
            self.cached_answers += 1
        else:
            self.new_answers += 1
            self.new_prompt_tokens += answer["tokens_in"]
            self.new_completion_tokens += answer["tokens_out"]
        self.prompt_tokens += answer["tokens_in"]
        self.completion_tokens += answer["tokens_out"]
        self.judge_models[answer["judge"]] += 1
        self.dates.add(answer["date"])
        self.without_verdict += answer["verdict"] is None


def judge_pairs(
    pairs: list[CommentaryPair],
    judge: JudgeModel,
    prompt: str,
    cache: AnswerCache,
    names: tuple[str, str],
    workers: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> JudgingResult:
    """Judges every pair in both orders.

    Args:
        pairs: Pairs of commentaries.
        judge: The judge model.
        prompt: Prompt with PLACEHOLDERS.
        cache: Answers of earlier runs; new ones are added to it.
        names: Names of the model and the baseline, which verdicts name as winners.
        workers: Number of parallel requests.
        progress: Called with (verdicts so far, verdicts in total).

    Returns:
        Verdicts in the order of the pairs; a winner is None where there is no readable answer.

    Raises:
        EndpointError: The endpoint refuses all requests, or has stopped answering. The answers so far
            are in the cache.
    """
    result = JudgingResult()
    winners: dict[_Comparison, str | None] = {}
    consecutive_failures = 0

    def collect(comparison: _Comparison, future: Future) -> None:
        nonlocal consecutive_failures
        event = pairs[comparison.pair].event
        try:
            answer, cached = future.result()
        except RequestFailed as error:
            consecutive_failures += 1
            result.without_verdict += 1
            winners[comparison] = None
            log.warning("%s %s: %s", event, comparison.order, error)
            if consecutive_failures >= MAX_CONSECUTIVE_FAILURES and not judge.deterministic:
                raise EndpointError(
                    f"{judge.address}: {consecutive_failures} requests in a row got no answer"
                ) from error
            return
        consecutive_failures = 0
        result.add_answer(answer, cached)
        winners[comparison] = _winner(answer["verdict"], comparison.order, names)
        if answer["verdict"] is None:
            log.warning("%s %s: cannot read %.80r", event, comparison.order, answer["reply"])

    comparisons = [_Comparison(i, order) for i in range(len(pairs)) for order in ORDERS]
    with ThreadPoolExecutor(workers) as pool:

        def submit(comparison: _Comparison) -> Future:
            pair = pairs[comparison.pair]
            return pool.submit(_answer, pair, comparison.order, judge, prompt, cache)

        try:
            completed = _as_completed(submit, comparisons, 2 * workers)
            for done, (comparison, future) in enumerate(completed, 1):
                collect(comparison, future)
                progress(done, len(comparisons))
        except BaseException:
            judge.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    result.verdicts = [
        {
            "video_event_id": pair.event,
            "ab_winner": winners[_Comparison(i, "ab")],
            "ba_winner": winners[_Comparison(i, "ba")],
        }
        for i, pair in enumerate(pairs)
    ]
    return result


def _answer(
    pair: CommentaryPair, order: str, judge: JudgeModel, prompt: str, cache: AnswerCache
) -> tuple[dict[str, Any], bool]:
    """Returns (the answer's record, whether it comes from the cache)."""
    commentaries = (pair.model, pair.baseline) if order == "ab" else (pair.baseline, pair.model)
    question = fill_prompt(prompt, *commentaries, pair.human)
    depends_on = [judge.address, judge.request_body(question)]
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    cached = cache.get(key)
    if cached is not None:
        return cached, True
    record = _record(key, pair.event, order, judge.complete(question))
    # An unreadable answer is not cached if asking again may give a readable one.
    if record["verdict"] is not None or judge.deterministic:
        cache.put(record)
    return record, False


def _winner(verdict: str | None, order: str, names: tuple[str, str]) -> str | None:
    first, second = names if order == "ab" else names[::-1]
    return {"a": first, "b": second, TIE: TIE, None: None}[verdict]


def _as_completed(
    submit: Callable[[_Comparison], Future], comparisons: list[_Comparison], max_pending: int
) -> Iterator[tuple[_Comparison, Future]]:
    """Yields futures as they finish, and submits at most `max_pending` ahead.

    A run that is stopped has therefore not paid for requests that it did not use.
    """
    remaining = iter(comparisons)
    pending: dict[Future, _Comparison] = {}
    while True:
        for comparison in remaining:
            pending[submit(comparison)] = comparison
            if len(pending) >= max_pending:
                break
        if not pending:
            return
        finished, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            yield pending.pop(future), future


def _record(key: str, event: str, order: str, completion: Completion) -> dict[str, Any]:
    """Returns a line of answers.jsonl."""
    return {
        "key": key,
        "video_event_id": event,
        "order": order,
        "verdict": parse_verdict(completion.text),
        "reply": completion.text,
        "judge": completion.model,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "tokens_in": completion.prompt_tokens,
        "tokens_out": completion.completion_tokens,
    }
