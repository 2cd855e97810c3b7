"""What a larger run would take, from the measured cost of each stage: days, and the bottleneck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODEL_STAGES = ("text", "faces")  # that run on an accelerator where there is one
WAITING = ("prompts",)  # that wait for an endpoint, many at a time
PUBLISHED_VIDEOS = 5_700_000  # with captions, in the published pre-training set


@dataclass(frozen=True)
class StageEstimate:
    """What one stage would take.

    Attributes:
        stage: Name of the stage.
        records: Records that it would take in.
        hours: Hours of one core, or of one accelerator of the kind that was measured.
        on: "cores" or "accelerators".
        days: Days on all of them.
    """

    stage: str
    records: int
    hours: float
    on: str
    days: float


def estimate(data: dict[str, Any], videos: int, cores: int, accelerators: int) -> list[StageEstimate]:
    """Scales what a run measured to more videos.

    A core's time is that of its processor, an accelerator's that of the clock, both in the run that was
    measured; sources are taken to be alike. What is not in a stage (reading and writing results, the
    comparison of all clips) is not counted.

    Args:
        data: What report.json holds.
        videos: Number of videos.
        cores: Number of cores.
        accelerators: Number of accelerators; 0 runs models on the cores too.

    Returns:
        Each stage, the one that takes most days first.
    """
    factor = videos / max(1, data["sources"])
    rows = []
    for row in data["cost"]:
        on_accelerator = row["stage"] in MODEL_STAGES and accelerators > 0
        waits = on_accelerator or row["stage"] in WAITING
        seconds = (row["seconds"] if waits else row["cpu_seconds"]) * factor
        count = accelerators if on_accelerator else cores
        rows.append(
            StageEstimate(
                row["stage"],
                round((row["records"] or 0) * factor),
                seconds / 3600,
                "accelerators" if on_accelerator else "cores",
                seconds / 86400 / max(1, count),
            )
        )
    return sorted(rows, key=lambda r: -r.days)


def summary(rows: list[StageEstimate], videos: int, cores: int, accelerators: int) -> list[str]:
    """Returns sentences: the days in all, the bottleneck, and each stage."""
    by_kind = {kind: sum(r.days for r in rows if r.on == kind) for kind in ("cores", "accelerators")}
    slowest = max(by_kind, key=lambda kind: by_kind[kind])
    # Cores and accelerators work at the same time, on different shards.
    days = by_kind[slowest]
    first = next((r for r in rows if r.on == slowest), None)
    lines = [
        f"{videos:,} videos on {cores:,} cores and {accelerators:,} accelerators like those measured: "
        f"{_days(days)}, bound by {slowest}"
        + (f", most of all by {first.stage} ({_days(first.days)})" if first and days else "")
    ]
    lines += [
        f"{r.stage}: {r.records:,} records, {r.hours:,.1f} hours of one of the {r.on}, {_days(r.days)}"
        for r in rows
    ]
    return lines


def _days(days: float) -> str:
    if days >= 1:
        return f"{days:,.1f} days"
    return f"{24 * days:.1f} hours" if days >= 1 / 24 else f"{1440 * days:.1f} minutes"
