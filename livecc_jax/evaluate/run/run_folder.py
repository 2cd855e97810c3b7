"""A benchmark, asked question by question and resumable at each.

Answers are lines of OUT/answers.jsonl as they come. OUT/run.json says how they were asked; a run that
would ask otherwise is refused, so that a results file never mixes two models or settings.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TextIO, TypeVar

import numpy as np

from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.evaluate.benchmarks.questions import Question, QuestionSet, VideoSource
from livecc_jax.evaluate.benchmarks.scored_answers import load_json
from livecc_jax.evaluate.run.choice import ChoiceScorer, ChoiceScores, VideoQuestions
from livecc_jax.evaluate.run.sampled_video import SampledVideo, sample_video
from livecc_jax.media.budget import PixelBudget

log = logging.getLogger(__name__)

Item, Loaded = TypeVar("Item"), TypeVar("Loaded")

PREFETCH_ITEMS = 2  # videos decoded while one is being asked about


@dataclass
class EvaluationProgress:
    """What one run did: questions answered now and before, failed, and seconds spent on them."""

    now: int = 0
    before: int = 0
    failed: int = 0
    videos: int = 0
    seconds: float = 0.0


def lock_settings(folder: Path, setting: dict[str, Any]) -> None:
    """Begin or go on with a run folder.

    Raises ConfigError naming what differs from how the folder's answers were asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.json"
    if path.exists():
        before = load_json(path)
        differ = [k for k in before.keys() | setting.keys() if before.get(k) != setting.get(k)]
        if differ:
            k = min(differ)
            raise ConfigError(
                f"{folder}: was begun with {k} {before.get(k)!r}, not {setting.get(k)!r}; "
                "take another --out"
            )
        return
    # Several processes may begin one run: none must read what another has half written.
    own = folder / f".run.json.{socket.gethostname()}.{os.getpid()}"
    own.write_text(json.dumps(setting, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    own.replace(path)


def answers_path(folder: Path, share: tuple[int, int]) -> Path:
    """Where a share (number, of how many) of the run keeps its answers."""
    return folder / ("answers.jsonl" if share[1] == 1 else f"answers-{share[0]}-of-{share[1]}.jsonl")


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """Answers by question id; a line cut short by a kill is passed over, a later line replaces."""
    found: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if not line:
                continue
            try:
                row = json.loads(line)
                found[row["id"]] = row
            except (ValueError, KeyError, TypeError):
                log.warning("%s: a broken line is passed over", path)
    return found


def all_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """Answers of every share of a run, however it was divided; an answer goes before an error."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("answers*.jsonl")):
        for key, row in read_answers(path).items():
            if "error" in found.get(key, {"error": ""}):
                found[key] = row
    return found


def answer_questions(
    chooser: ChoiceScorer,
    questions: QuestionSet,
    folder: Path,
    budget: PixelBudget,
    *,
    share: tuple[int, int] = (0, 1),
    max_frames: int | None = None,
    progress: Callable[[EvaluationProgress, int], None] = lambda asked, of: None,
) -> EvaluationProgress:
    """Ask what is not answered yet.

    Args:
        chooser: the model.
        questions: of the benchmark.
        folder: of the run.
        budget: pixels a frame.
        share: this process takes every n-th video, (which, n); several processes divide a run so.
        max_frames: fewer than the published 480.
        progress: told what was done so far and how many questions this share has.

    Returns:
        What was done. A question whose video cannot be read is a line with an error, and is asked
        again by the next run.
    """
    known = all_answers(folder)
    groups = [g for i, g in enumerate(_by_source(questions)) if i % share[1] == share[0]]
    total = sum(len(g) for g in groups)
    asked, began = EvaluationProgress(), time.perf_counter()
    todo = []
    for group in groups:
        left = [q for q in group if "response" not in known.get(q.id, {})]
        asked.before += len(group) - len(left)
        if left:
            todo.append(left)
    with append_lines(answers_path(folder, share)) as file:
        load = functools.partial(_watch_group, budget=budget, max_frames=max_frames)
        # As many videos at once as the chooser takes, of those that can be read.
        batches = batch_loaded(prefetch(todo, load, chooser.rows), chooser.rows)
        for batch, answers in _one_ahead((batch, _ask(chooser, batch)) for batch in batches):
            rows = [{"id": q.id, "error": str(error)} for group, error in batch.failed for q in group]
            for (group, _), choices in zip(batch.loaded, answers()):
                rows += [_answered(q, choice) for q, choice in zip(group, choices, strict=True)]
            write_lines(file, rows)
            asked.videos += len(batch.loaded) + len(batch.failed)
            asked.now += sum("response" in row for row in rows)
            asked.failed += sum("error" in row for row in rows)
            asked.seconds = time.perf_counter() - began
            progress(asked, total)
    return asked


def _ask(
    chooser: ChoiceScorer, batch: LoadedBatch[list[Question], SampledVideo]
) -> Callable[[], list[list[ChoiceScores]]]:
    """Begin with a batch; what waits for its answers."""
    if not batch.loaded:
        return list
    return chooser.ask(
        [VideoQuestions(watched, [q.text for q in group], [q.options for q in group])
         for group, watched in batch.loaded]
    )  # fmt: skip


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same, each once the next is there: devices go on with one while another is written down."""
    before = deque(maxlen=1)
    try:
        for item in items:
            if before:
                yield before[0]
            before.append(item)
    except BaseException:
        yield from before  # it has been asked: a stop must not lose it
        raise
    yield from before


def append_lines(path: Path) -> TextIO:
    """A file of JSON lines to append to; a line that a kill cut short is ended first."""
    cut = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (the caller closes it)
    if cut:
        file.write("\n")
    return file


def write_lines(file: TextIO, rows: list[dict[str, Any]]) -> None:
    """Append rows, on disk before anything else happens."""
    file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    file.flush()


def _watch_group(group: list[Question], budget: PixelBudget, max_frames: int | None) -> SampledVideo:
    return sample_video(group[0].source, budget, max_frames)


def _answered(question: Question, choice: ChoiceScores) -> dict[str, Any]:
    if not np.isfinite(choice.logits).all():
        return {"id": question.id, "error": "the model's logits are not finite"}
    best = int(np.argmax(choice.logits))
    return {
        "id": question.id,
        "response": question.responses[best],
        "option": question.options[best],
        "logits": [round(float(v), 4) for v in choice.logits],
        "tokens": choice.tokens,
    }


def prefetch(
    items: Iterable[Item], load: Callable[[Item], Loaded], at_once: int = 1
) -> Iterator[tuple[Item, Future[Loaded]]]:
    """Each item with what `load` makes of it, AHEAD times `at_once` being loaded meanwhile."""
    most = PREFETCH_ITEMS * at_once
    with ThreadPoolExecutor(most) as pool:
        ahead: deque[tuple[Item, Future[Loaded]]] = deque()
        for item in items:
            ahead.append((item, pool.submit(load, item)))
            if len(ahead) > most:
                yield ahead.popleft()
        yield from ahead


class LoadedBatch(NamedTuple, Generic[Item, Loaded]):
    """Items with what was loaded of them, and those that could not be, with why."""

    loaded: list[tuple[Item, Loaded]]
    failed: list[tuple[Item, LiveCCError]]


def batch_loaded(
    loads: Iterable[tuple[Item, Future[Loaded]]], count: int
) -> Iterator[LoadedBatch[Item, Loaded]]:
    """Batches of `count` items that could be loaded; the last one may have fewer."""
    batch: LoadedBatch[Item, Loaded] = LoadedBatch([], [])
    for item, future in loads:
        try:
            batch.loaded.append((item, future.result()))
        except LiveCCError as error:
            log.warning("%s", error)
            batch.failed.append((item, error))
        if len(batch.loaded) == count:
            yield batch
            batch = LoadedBatch([], [])
    if batch.loaded or batch.failed:
        yield batch


def _by_source(questions: QuestionSet) -> list[list[Question]]:
    groups: dict[VideoSource, list[Question]] = {}
    for question in questions.questions:
        groups.setdefault(question.source, []).append(question)
    return list(groups.values())


def write_results_file(
    benchmark: str, questions: QuestionSet, answers: dict[str, dict[str, Any]], path: Path
) -> None:
    """The results file in the benchmark's published layout.

    A question that could not be asked has a null response: scoring counts it as unanswered.
    """
    rows: list[dict[str, Any]] = []
    videos: dict[str, dict[str, Any]] = {}
    shared = {
        "videomme": ("video_id", "duration", "domain", "sub_category"),
        "mvbench": ("video",),
        "livesports-qa": ("video_id",),
    }.get(benchmark)
    for question in questions.questions:
        told = {"answer": question.answer, "response": answers.get(question.id, {}).get("response")}
        if shared is None:
            rows.append(question.row | told)
            continue
        name = question.row[shared[0]]
        if name not in videos:
            videos[name] = {k: question.row[k] for k in shared} | {"questions": []}
            rows.append(videos[name])
        own = {k: v for k, v in question.row.items() if k not in shared}
        videos[name]["questions"].append(own | told)
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def file_hash(path: Path) -> str:
    """sha256 of an annotation: of a folder, of its JSON files in order."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
