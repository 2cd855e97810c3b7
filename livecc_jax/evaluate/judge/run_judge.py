"""Judges one predictions file against another, and writes verdicts, answers and a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
from livecc_jax.evaluate.judge.answer_cache import AnswerCache
from livecc_jax.evaluate.judge.commentaries import read_commentaries
from livecc_jax.evaluate.judge.judge_model import JudgeModel
from livecc_jax.evaluate.judge.judging import CommentaryPair, JudgingResult, judge_pairs
from livecc_jax.evaluate.judge.prompt import load_prompt, prompt_hash
from livecc_jax.evaluate.metrics.score import BenchmarkScore, score_benchmark
from livecc_jax.writing import make_folder, write_text

PREDICTION_KEYS = ("pred",)
HUMAN_KEYS = ("gt_asr", "event_asr_text")


def run_judge(
    predictions: str | Path,
    baseline: str | Path,
    reference: str | Path,
    out: str | Path,
    judge: JudgeModel,
    *,
    names: tuple[str | None, str | None] = (None, None),
    prompt_file: str | Path | None = None,
    prices: tuple[float, float] = (0.0, 0.0),
    workers: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[BenchmarkScore, dict[str, Any]]:
    """Judges a model's predictions against a baseline's.

    The events are those that both the baseline and the reference have. An event that the model lacks
    has no winners, which counts as two verdicts that the model does not win.

    Args:
        predictions: Predictions of the model, {video_id, event_id, pred}.
        baseline: Predictions of the baseline.
        reference: Human commentary, {video_id, event_id, gt_asr}, or LiveSports-3K-CC.json.
        out: Folder for answers.jsonl, <baseline>_<model>.jsonl, prompt.txt and judge.json.
        judge: The judge model.
        names: Names of the model and the baseline; None means the name of the file.
        prompt_file: Prompt to use instead of the default one.
        prices: Price of a million prompt tokens and of a million generated tokens.
        workers: Number of parallel requests.
        progress: Called with (verdicts so far, verdicts in total).

    Returns:
        (the win rate, the record that judge.json holds).

    Raises:
        ConfigError: The prompt cannot be used, or both sides have the same name.
        DataError: A file cannot be read.
        OutputError: A file cannot be written.
        EndpointError: The endpoint refuses all requests, or has stopped answering.
    """
    model_name = names[0] or Path(predictions).stem
    baseline_name = names[1] or Path(baseline).stem
    if model_name == baseline_name or "/" in model_name + baseline_name:
        raise ConfigError(
            f"--name and --baseline-name must differ and hold no slash: {model_name}, {baseline_name}"
        )
    prompt = load_prompt(prompt_file)
    paths = {"predictions": predictions, "baseline": baseline, "reference": reference}
    of_model, model_log = read_commentaries(predictions, PREDICTION_KEYS)
    of_baseline, baseline_log = read_commentaries(baseline, PREDICTION_KEYS)
    of_human, human_log = read_commentaries(reference, HUMAN_KEYS)
    problem_logs = {"predictions": model_log, "baseline": baseline_log, "reference": human_log}
    events = [e for e in of_baseline if e in of_human]
    if not events:
        raise ConfigError(f"{baseline} and {reference} have no event in common")
    pairs = [
        CommentaryPair(e, of_model[e], of_baseline[e], of_human[e]) for e in events if e in of_model
    ]
    folder = Path(out)
    make_folder(folder)
    cache = AnswerCache(folder / "answers.jsonl")
    try:
        side_names = (model_name, baseline_name)
        result = judge_pairs(pairs, judge, prompt, cache, side_names, workers, progress)
    finally:
        cache.close()
    verdicts = folder / f"{baseline_name}_{model_name}.jsonl"
    _write_verdicts(verdicts, events, result)
    write_text(folder / "prompt.txt", prompt)
    score = score_benchmark("judge", verdicts, model=model_name, expected=len(events))
    record = {
        "model": model_name,
        "baseline": baseline_name,
        "files": {name: str(path) for name, path in paths.items()},
        "file_problems": _file_problems(problem_logs),
        "events": {
            "judged": len(pairs),
            "without a prediction": len(events) - len(pairs),
            "of the baseline without a reference": len(of_baseline) - len(events),
        },
        "judge": {
            "endpoint": judge.address,
            "asked for": judge.model,
            "answered as": dict(result.judge_models),
            "fields": judge.request_body("") | {"messages": "the prompt"},
        },
        "dates": sorted(result.dates),
        "prompt_sha256": prompt_hash(prompt),
        **_costs(result, judge, prices),
        "result": score.to_json(),
    }
    write_text(folder / "judge.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return score, record


def _write_verdicts(path: Path, events: list[str], result: JudgingResult) -> None:
    """Writes one verdict for each event; an event that was not judged has no winners."""
    verdicts = {v["video_event_id"]: v for v in result.verdicts}
    no_winners = {"ab_winner": None, "ba_winner": None}
    lines = [json.dumps(verdicts.get(e, {"video_event_id": e, **no_winners})) for e in events]
    write_text(path, "\n".join(lines) + "\n")


def _file_problems(problem_logs: Mapping[str, ProblemLog]) -> dict[str, dict[str, int]]:
    return {
        name: {kind: count for kind, count in log.problems.items() if count}
        for name, log in problem_logs.items()
    }


def _costs(result: JudgingResult, judge: JudgeModel, prices: tuple[float, float]) -> dict[str, Any]:
    def cost(prompt_tokens: int, completion_tokens: int) -> float:
        return round((prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6, 6)

    return {
        "answers": {
            "new": result.new_answers,
            "from disk": result.cached_answers,
            "without a verdict": result.without_verdict,
        },
        "tokens": {
            "in, new": result.new_prompt_tokens,
            "out, new": result.new_completion_tokens,
            "in, all": result.prompt_tokens,
            "out, all": result.completion_tokens,
        },
        "cost": {
            "new": cost(result.new_prompt_tokens, result.new_completion_tokens),
            "all": cost(result.prompt_tokens, result.completion_tokens),
        },
        "faults": dict(judge.fault_counts),
    }
