"""A judged comparison from files to files: predictions in, verdicts, answers and their record out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.judge.endpoint import Answering
from livecc_jax.evaluate.judge.judge import (
    Cache,
    Case,
    Judged,
    judge,
    prompt_hash,
    read_commentaries,
    read_prompt,
)
from livecc_jax.evaluate.metrics.score import Scored, score

PREDICTED = ("pred",)
HUMAN = ("gt_asr", "event_asr_text")


def judge_files(
    predictions: str | Path,
    baseline: str | Path,
    reference: str | Path,
    out: str | Path,
    endpoint: Answering,
    *,
    names: tuple[str | None, str | None] = (None, None),
    prompt_file: str | Path | None = None,
    prices: tuple[float, float] = (0.0, 0.0),
    workers: int = 8,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Scored, dict[str, Any]]:
    """Judge a model's predictions against a baseline's.

    The events are those that the baseline and the reference have. One that the model lacks is a row
    without winners, which counts as two verdicts not won.

    Args:
        predictions: of the model, {video_id, event_id, pred}.
        baseline: of the baseline.
        reference: {video_id, event_id, gt_asr} or LiveSports-3K-CC.json.
        out: folder for answers.jsonl, <baseline>_<model>.jsonl, prompt.txt, judge.json.
        endpoint: of the judge, or a checkpoint.
        names: of model and baseline; None is the file's name.
        prompt_file: a prompt in place of ours.
        prices: of a million tokens in and out.
        workers: requests at once.
        progress: told how many of how many verdicts are there.

    Returns:
        (the win rate, the record that judge.json holds).

    Raises:
        ConfigError: the prompt cannot be used, or both have one name.
        DataError: a file cannot be read.
        EndpointError: the endpoint refuses or answers nothing.
    """
    model = names[0] or Path(predictions).stem
    other = names[1] or Path(baseline).stem
    if model == other or "/" in model + other:
        raise ConfigError(f"--name and --baseline-name must differ and hold no slash: {model}, {other}")
    prompt = read_prompt(prompt_file)
    ours, our_faults = read_commentaries(predictions, PREDICTED)
    theirs, their_faults = read_commentaries(baseline, PREDICTED)
    human, human_faults = read_commentaries(reference, HUMAN)
    events = [e for e in theirs if e in human]
    if not events:
        raise ConfigError(f"{baseline} and {reference} have no event in common")
    cases = [Case(e, ours[e], theirs[e], human[e]) for e in events if e in ours]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(folder / "answers.jsonl")
    try:
        judged = judge(cases, endpoint, prompt, cache, (model, other), workers, progress)
    finally:
        cache.close()
    rows = {r["video_event_id"]: r for r in judged.rows}
    nobody = {"ab_winner": None, "ba_winner": None}
    verdicts = folder / f"{other}_{model}.jsonl"
    lines = [json.dumps(rows.get(e, {"video_event_id": e, **nobody})) for e in events]
    verdicts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "prompt.txt").write_text(prompt, encoding="utf-8")
    scored = score("judge", verdicts, model=model, expected=len(events))
    record = {
        "model": model,
        "baseline": other,
        "files": {
            "predictions": str(predictions),
            "baseline": str(baseline),
            "reference": str(reference),
        },
        "file_problems": {
            name: {k: v for k, v in faults.problems.items() if v}
            for name, faults in (
                ("predictions", our_faults),
                ("baseline", their_faults),
                ("reference", human_faults),
            )
        },
        "events": {
            "judged": len(cases),
            "without a prediction": len(events) - len(cases),
            "of the baseline without a reference": len(theirs) - len(events),
        },
        "judge": {
            "endpoint": endpoint.address,
            "asked for": endpoint.model,
            "answered as": dict(judged.judges),
            "fields": endpoint.request("") | {"messages": "the prompt"},
        },
        "dates": sorted(judged.dates),
        "prompt_sha256": prompt_hash(prompt),
        **_account(judged, endpoint, prices),
        "result": scored.to_json(),
    }
    (folder / "judge.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return scored, record


def _account(judged: Judged, endpoint: Answering, prices: tuple[float, float]) -> dict[str, Any]:
    def cost(tokens_in: int, tokens_out: int) -> float:
        return round((tokens_in * prices[0] + tokens_out * prices[1]) / 1e6, 6)

    return {
        "answers": {
            "new": judged.asked,
            "from disk": judged.cached,
            "without a verdict": judged.failed,
        },
        "tokens": {
            "in, new": judged.tokens_in,
            "out, new": judged.tokens_out,
            "in, all": judged.all_tokens_in,
            "out, all": judged.all_tokens_out,
        },
        "cost": {
            "new": cost(judged.tokens_in, judged.tokens_out),
            "all": cost(judged.all_tokens_in, judged.all_tokens_out),
        },
        "faults": dict(endpoint.faults),
    }
