"""Two commentaries on the same clips: every metric's difference, clips drawn again for both at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.evaluate.metrics.commentary import METRICS, summarize
from livecc_jax.evaluate.metrics.statistics import bootstrap_p, interval
from livecc_jax.evaluate.metrics.text import columns, p_value
from livecc_jax.evaluate.metrics.timed import PREDICTION, score_commentary


@dataclass(frozen=True)
class PairedMetric:
    """A metric of run A and of run B; low and high: of B - A; p: by the bootstrap, nan for one clip."""

    name: str
    unit: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class PairedCommentary:
    """clips: in both; alone_b: clips of B that A lacks."""

    clips: int
    alone_b: int
    metrics: list[PairedMetric]


def compare_commentary(
    a: str | Path, b: str | Path, references: str | Path, resamples: int = 2000, seed: int = 0
) -> PairedCommentary:
    """Compare prediction files (as `score_commentary` takes them) on the clips that both have.

    Raises DataError when there is none.
    """
    found = score_commentary(b, references, baseline=a, resamples=0)
    theirs, ours = found.counts[Path(a).name], found.counts[PREDICTION]
    point = summarize(theirs), summarize(ours)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples if len(ours) > 1 else 0):
        chosen = rng.integers(0, len(ours), len(ours))
        pair = [summarize([clips[i] for i in chosen]) for clips in (theirs, ours)]
        drawn.append({name: pair[1][name] - pair[0][name] for name in METRICS})
    metrics = []
    for name, (unit, _) in METRICS.items():
        spread = np.array([d[name] for d in drawn])
        span = interval(spread)
        p = bootstrap_p(spread) if len(drawn) else float("nan")
        first, second = (metric[name] for metric in point)
        metrics.append(PairedMetric(name, unit, first, second, second - first, span.low, span.high, p))
    return PairedCommentary(len(ours), found.entries.problems["not in the baseline"], metrics)


def paired_text(found: PairedCommentary, a: str, b: str) -> str:
    """The table; "-" where a metric, or a difference, is none."""

    def shown(value: float, form: str = ".2f") -> str:
        return "-" if value != value else format(value, form)

    rows = [
        (
            f"{m.name} ({m.unit})",
            shown(m.a),
            shown(m.b),
            shown(m.difference, "+.2f"),
            "-" if m.low != m.low else f"{m.low:+.2f} to {m.high:+.2f}",
            p_value(m.p),
        )
        for m in found.metrics
    ]
    head = f"{found.clips:,} clips are in both; {found.alone_b:,} of B alone are not compared."
    table = columns(("", "A", "B", "B - A", "95% interval", "boot p"), rows)
    return "\n".join([f"A: {a}", f"B: {b}", head, "", *table])


def to_json(found: PairedCommentary) -> dict[str, Any]:
    """Every number; null where there is none."""
    metrics = [
        {k: None if v != v else v for k, v in dataclasses.asdict(m).items()} for m in found.metrics
    ]
    return {"benchmark": "commentary", "clips": found.clips, "alone_b": found.alone_b, "rows": metrics}
