"""The content of a run's report as JSON values."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import socket
from pathlib import Path
from typing import Any

from livecc_jax.produce.line.identity import identity
from livecc_jax.produce.line.phases import CPU, NEEDS, active_phases, runs
from livecc_jax.produce.line.run import Produced
from livecc_jax.produce.line.statistics import EDGES
from livecc_jax.produce.parameters import FILTERS, PUBLISHED, stage_digest
from livecc_jax.produce.report.advice import advice
from livecc_jax.version import __version__

PACKAGES = ("numpy", "jax", "av", "opencv-python-headless", "py3langid", "rensa", "faster-whisper",
            "ctranslate2", "apache-beam")  # fmt: skip
# Filters of the paper that need a model, and what each of them is there.
PUBLISHED_MODELS = {
    "text": "mean loss of the words under Qwen2-1.5B-Instruct",
    "faces": "talking heads, by Qwen2-VL-2B-Instruct or an active-speaker model",
    "prompts": "a language model's judgement and query",
}
HASH_BLOCK = 1 << 20


def report_data(
    produced: Produced,
    models: dict[str, str] | None = None,
    prices: tuple[float, float] = (0.0, 0.0),
) -> dict[str, Any]:
    """Returns everything that report.json holds.

    Args:
        produced: What a run did.
        models: Names of the models of stages, as they identify themselves, by stage.
        prices: Price of a million tokens of requests to the prompt stage's model, and of its answers.
    """
    statistics, parameters = produced.statistics, produced.parameters
    total = sum(statistics.dropped[s].clips for s in statistics.dropped) + statistics.clips
    return {
        "kind": parameters.kind,
        "sources": statistics.sources,
        "sources_kept": statistics.sources_kept,
        "clips": statistics.clips,
        "hours": round(statistics.clip_ms / 3_600_000, 3),
        "words": statistics.words,
        "rejections": sum(statistics.reasons.values()),
        "clips_and_stretches": total,
        "funnel": statistics.funnel(produced.stages),
        "reasons": [
            {"stage": stage, "reason": reason, "count": count}
            for (stage, reason), count in sorted(
                statistics.reasons.items(), key=lambda item: (-item[1], item[0])
            )
        ],
        "not_run": not_run(produced),
        "bounds": {
            "text_loss": [parameters.min_text_loss, parameters.max_text_loss],
            "text_model": (models or {}).get("text", parameters.text_model),
            "text_model_digest": identity(parameters.text_model),  # of its files
        }
        if runs("text", parameters)
        else None,
        "distributions": {
            name: {"edges": EDGES[name], "counts": counts}
            for name, counts in sorted(statistics.histograms.items())
        },
        "languages": dict(statistics.languages.most_common()),
        "cost": cost(produced),
        "prompt_tokens": {
            "in": statistics.prompt_tokens[0],
            "out": statistics.prompt_tokens[1],
            "price": round(sum(n * p for n, p in zip(statistics.prompt_tokens, prices)) / 1e6, 4),
        },
        "wall_seconds": {name: round(s, 3) for name, s in produced.wall_seconds.items()},
        "changed": list(produced.changed),
        "advice": advice(produced),
        "provenance": {
            "livecc_jax": __version__,
            "python": platform.python_version(),
            "packages": _versions(),
            "machine": f"{socket.gethostname()}, {os.cpu_count()} cores, {platform.machine()}",
            "shards": produced.shards,
            "parameters": dataclasses.asdict(parameters),
            "not_published": _differences(produced),
            "stage_digests": {
                name: stage_digest(parameters, name)
                for name in produced.stages
                if name not in ("source", "duplicates")
            },
            "files": {
                name: _sha256(produced.out / name)
                for name in ("annotations.jsonl", "rejected.jsonl")
                if (produced.out / name).is_file()
            },
        },
    }


def not_run(produced: Produced) -> list[dict[str, str]]:
    """Returns the filters that did not run, each with the reason."""
    parameters, rows = produced.parameters, []
    published = PUBLISHED[parameters.kind]
    for name in FILTERS:
        in_paper = name in published.filters
        if name not in parameters.filters:
            reason = "switched off" if in_paper else "not part of this kind of data"
        elif name in NEEDS and not runs(name, parameters):
            reason = f"nothing is named for it ({NEEDS[name]})"
        elif name == "licence" and not parameters.licences and not parameters.opt_out:
            reason = "no licence and no list of opt-outs is named"
        else:
            continue
        used = PUBLISHED_MODELS.get(name, "") if in_paper else ""
        rows.append({"filter": name, "published": used, "reason": reason})
    if "duplicates" in parameters.filters and not runs("pictures", parameters):
        rows.append(
            {"filter": "duplicates (pictures)", "published": "", "reason": "duplicate_frames is 0"}
        )
    return rows


def cost(produced: Produced) -> list[dict[str, Any]]:
    """Returns seconds of all workers by stage, and what a record costs."""
    statistics = produced.statistics
    counts = {row["stage"]: row["before"] for row in statistics.funnel(produced.stages)}
    names = [
        name
        for phase in active_phases(produced.parameters)
        for name in phase.active(produced.parameters)
    ]
    before = {"fingerprints": counts.get("duplicates", 0), "pictures": counts.get("duplicates", 0)}
    before["cut"] = next(
        (r["before"] for r in statistics.funnel(produced.stages) if r["stage"] == "cut"), 0
    )
    rows = []
    for name in names:
        count = before.get(name, counts.get(name, 0))
        seconds = statistics.seconds.get(name, 0.0)
        cpu = statistics.seconds.get(name + CPU, 0.0)
        rows.append(
            {
                "stage": name,
                "seconds": round(seconds, 3),
                "cpu_seconds": round(cpu, 3),
                "records": count,
                "ms_per_record": round(1000 * seconds / count, 3) if count else None,
                "cpu_ms_per_record": round(1000 * cpu / count, 3) if count else None,
            }
        )
    return rows


def _differences(produced: Produced) -> dict[str, Any]:
    """Returns the parameters that are not the published ones."""
    published = dataclasses.asdict(PUBLISHED[produced.parameters.kind])
    own = dataclasses.asdict(produced.parameters)
    return {name: own[name] for name in own if own[name] != published[name]}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
