"""A judge model says which of two commentaries is closer to the human one, in both orders.

Every answer is kept on disk as it comes, under a hash of all that it depends on, so a run that was
stopped goes on and a run that is repeated costs nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError, DataError
from livecc_jax.evaluate.benchmarks.entries import Entries, read_rows
from livecc_jax.evaluate.benchmarks.results import Malformed, Reading, text
from livecc_jax.evaluate.judge.endpoint import Answering, EndpointError, NoAnswer, Reply
from livecc_jax.evaluate.metrics.verdicts import TIE

log = logging.getLogger(__name__)

PLACES = ("{commentary_a}", "{commentary_b}", "{human}")
PROMPT = """\
Two systems commented on the same video, live. Below are both commentaries and what a human commentator
said over the same video. Decide which of the two is closer to the human's.

What counts first is meaning: the same events, facts and names, and nothing that contradicts them.
Only if that does not decide, prefer the one whose tone and wording are closer. Length alone, and the
order in which they stand here, mean nothing.

[Commentary A]
{commentary_a}

[Commentary B]
{commentary_b}

[Human commentary]
{human}

Answer with one line and nothing else: "Commentary A" or "Commentary B".
"""
GIVE_UP = 10  # requests in a row without an answer: the endpoint is down


@dataclass(frozen=True)
class Case:
    """One event to judge."""

    event: str
    model: str
    baseline: str
    human: str


@dataclass
class Judged:
    """What judging gave: verdict rows in the published layout, and how they came about."""

    rows: list[dict[str, str | None]]
    asked: int = 0
    cached: int = 0
    failed: int = 0
    tokens_in: int = 0  # of new answers
    tokens_out: int = 0
    all_tokens_in: int = 0  # of all answers used, cached ones too
    all_tokens_out: int = 0
    judges: Counter[str] = field(default_factory=Counter)  # models as the server names them
    dates: set[str] = field(default_factory=set)


def prompt_hash(prompt: str) -> str:
    """What a report calls a prompt by."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def read_prompt(path: str | Path | None) -> str:
    """The prompt in a file, or ours. Raises ConfigError when it lacks a place."""
    if path is None:
        return PROMPT
    try:
        prompt = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the prompt cannot be read: {error}") from error
    lacking = [place for place in PLACES if place not in prompt]
    if lacking:
        raise ConfigError(f"{path}: the prompt lacks {', '.join(lacking)}")
    return prompt


def fill(prompt: str, a: str, b: str, human: str) -> str:
    """The prompt with its places filled, once: braces in a commentary mean nothing."""
    values = dict(zip(PLACES, (a, b, human)))
    return re.sub("|".join(map(re.escape, PLACES)), lambda m: values[m[0]], prompt)


def verdict(reply: str) -> str | None:
    """`a`, `b`, `tie`, or None when the reply does not say.

    A reply naming one commentary is for it; naming both, it must say which is better. (The published
    script takes any reply that holds "Commentary A" for A, "B is better than Commentary A" too.)
    """
    said = re.sub(r"[*_`\"'\[\]]", "", reply)
    better = re.search(r"commentary ([ab]) is (?:\w+ )?(?:better|closer)", said, re.IGNORECASE)
    if better:
        return better[1].lower()
    named = {m.lower() for m in re.findall(r"commentary ([ab])\b", said, re.IGNORECASE)}
    if len(named) == 1:
        return named.pop()
    bare = said.strip().rstrip(".").lower()
    return bare if bare in ("a", "b", TIE) else None


class Cache:
    """Answers on disk, a JSON line each; a line cut short by a kill is passed over."""

    def __init__(self, path: Path) -> None:
        self._found: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        cut = False
        if path.exists():
            *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
            cut = bool(last)
            for line in filter(None, [*lines, last]):
                try:
                    row = json.loads(line)
                    self._found[row["key"]] = row
                except (ValueError, KeyError, TypeError):
                    log.warning("%s: a broken line is passed over", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (held for the object's life)
        if cut:
            self._file.write("\n")

    def get(self, key: str) -> dict[str, Any] | None:
        """The row kept under a key."""
        return self._found.get(key)

    def put(self, row: dict[str, Any]) -> None:
        """Keep a row under its `key`."""
        with self._lock:
            self._found[row["key"]] = row
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def judge(
    cases: list[Case],
    endpoint: Answering,
    prompt: str,
    cache: Cache,
    names: tuple[str, str],
    workers: int = 8,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Judged:
    """Judge every case in both orders.

    Args:
        cases: events.
        endpoint: of the judge, or a checkpoint.
        prompt: with PLACES.
        cache: of answers.
        names: of model and baseline, as verdicts name winners.
        workers: requests under way at once.
        progress: told how many of how many verdicts are there.

    Returns:
        Rows in the cases' order; a winner is None where no readable answer came.

    Raises:
        EndpointError: the endpoint refuses everything, or nothing answers any more. What was answered
            before is in the cache.
    """
    out = Judged([])
    winners: dict[tuple[int, str], str | None] = {}
    in_a_row = 0

    def ask(case: Case, order: str) -> tuple[dict[str, Any], bool]:
        pair = (case.model, case.baseline)
        question = fill(prompt, *(pair if order == "ab" else pair[::-1]), case.human)
        body = endpoint.request(question)
        key = hashlib.sha256(json.dumps([endpoint.address, body], sort_keys=True).encode()).hexdigest()
        kept = cache.get(key)
        if kept is not None:
            return kept, True
        reply = endpoint.ask(question)
        row = _row(key, case.event, order, reply)
        # An answer that cannot be read is not kept: the next run asks again, if that may help.
        if row["verdict"] is not None or endpoint.steady:
            cache.put(row)
        return row, False

    def take(slot: tuple[int, str], future: Future) -> None:
        nonlocal in_a_row
        try:
            row, cached = future.result()
        except NoAnswer as error:
            out.failed += 1
            in_a_row += 1
            winners[slot] = None
            log.warning("%s %s: %s", cases[slot[0]].event, slot[1], error)
            if in_a_row >= GIVE_UP and not endpoint.steady:
                raise EndpointError(
                    f"{endpoint.address}: {in_a_row} requests in a row stayed without an answer"
                ) from error
            return
        in_a_row = 0
        out.cached += cached
        out.asked += not cached
        for name in ("tokens_in", "tokens_out"):
            setattr(out, name, getattr(out, name) + (0 if cached else row[name]))
            setattr(out, f"all_{name}", getattr(out, f"all_{name}") + row[name])
        out.judges[row["judge"]] += 1
        out.dates.add(row["date"])
        first, second = names if slot[1] == "ab" else names[::-1]
        winners[slot] = {"a": first, "b": second, TIE: TIE, None: None}[row["verdict"]]
        if row["verdict"] is None:
            out.failed += 1
            log.warning("%s %s: cannot read %.80r", cases[slot[0]].event, slot[1], row["reply"])

    slots = [(i, order) for i in range(len(cases)) for order in ("ab", "ba")]
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, (slot, future) in enumerate(_in_flight(pool, ask, cases, slots, workers), 1):
                take(slot, future)
                progress(done, len(slots))
        except BaseException:
            endpoint.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    out.rows = [
        {
            "video_event_id": case.event,
            "ab_winner": winners[i, "ab"],
            "ba_winner": winners[i, "ba"],
        }
        for i, case in enumerate(cases)
    ]
    return out


def _in_flight(
    pool: ThreadPoolExecutor,
    ask: Callable,
    cases: list[Case],
    slots: list[tuple[int, str]],
    workers: int,
) -> Iterator[tuple[tuple[int, str], Future]]:
    """Futures as they finish, only some ahead: a run that stops has not asked for everything."""
    waiting = iter(slots)
    flying: dict[Future, tuple[int, str]] = {}
    while True:
        for slot in waiting:
            flying[pool.submit(ask, cases[slot[0]], slot[1])] = slot
            if len(flying) >= 2 * workers:
                break
        if not flying:
            return
        finished, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in finished:
            yield flying.pop(future), future


def _row(key: str, event: str, order: str, reply: Reply) -> dict[str, Any]:
    return {
        "key": key,
        "video_event_id": event,
        "order": order,
        "verdict": verdict(reply.text),
        "reply": reply.text,
        "judge": reply.model,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
    }


def read_commentaries(path: str | Path, keys: tuple[str, ...]) -> tuple[dict[str, str], Entries]:
    """Text by event from {video_id, event_id, <one of keys>}, JSON or JSON lines.

    Returns:
        (event to text, its first if it comes twice; what was wrong with the file).

    Raises:
        DataError: the file cannot be read or holds no such text.
    """
    entries, found = Entries(), {}
    for where, row in read_rows(path, entries):
        with Reading(entries, where):
            if row.get("event_id") is None:
                raise Malformed("'event_id' is absent")
            event = f"{text(row, 'video_id')}_{row['event_id']}"
            key = next((k for k in keys if k in row), keys[0])
            if event in found:
                entries.problem("duplicate", f"{where}: {event} comes again; its first is used")
            else:
                found[event] = text(row, key)
    if not found:
        raise DataError(f"{path}: holds no commentary ({', '.join(keys)}) of any event")
    return found, entries
