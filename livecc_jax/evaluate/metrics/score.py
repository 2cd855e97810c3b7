"""Existing predictions, scored: what `livecc score` and reports show."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError, DataError
from livecc_jax.evaluate.benchmarks.catalog import LAYOUTS, Layout
from livecc_jax.evaluate.benchmarks.entries import Entries, load_json
from livecc_jax.evaluate.benchmarks.results import READERS
from livecc_jax.evaluate.metrics.statistics import LEVEL, RESAMPLES
from livecc_jax.evaluate.metrics.tables import Row, table
from livecc_jax.evaluate.metrics.verdicts import read_verdicts

BENCHMARKS = tuple(LAYOUTS)


@dataclass
class Scored:
    """A results file with its table; extra: numbers beside it, name to value."""

    benchmark: str
    path: str
    sha256: str
    entries: Entries
    rows: list[Row]
    resamples: int
    seed: int
    extra: dict[str, float | str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Of the benchmark."""
        return LAYOUTS[self.benchmark]

    @property
    def headline(self) -> Row:
        """The row that the run is known by."""
        return next(r for r in self.rows if r.name == self.layout.headline)

    def to_json(self) -> dict[str, Any]:
        """Everything a report states."""
        return {
            "benchmark": self.benchmark,
            "title": self.layout.title,
            "file": self.path,
            "sha256": self.sha256,
            "headline": self.headline.to_json(),
            "counts": counts(self.entries),
            "notes": self.entries.notes,
            "interval": {
                "level": LEVEL,
                "method": "percentile bootstrap over videos",
                "resamples": self.resamples,
                "seed": self.seed,
            },
            "extra": {
                k: None if isinstance(v, float) and math.isnan(v) else v for k, v in self.extra.items()
            },
            "rows": [row.to_json() for row in self.rows],
        }


def score(
    benchmark: str,
    path: str | Path,
    *,
    model: str | None = None,
    expected: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scored:
    """Score a results file by its benchmark's own rule.

    Args:
        benchmark: one of BENCHMARKS.
        path: in a published layout (docs/evaluation.md).
        model: of verdicts, whose wins count, when the file's name does not say.
        expected: how many answers there should be (verdicts: events); the benchmark's own number
            without it.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ConfigError: an unknown benchmark.
        DataError: the file cannot be read, or holds no answer.
    """
    if benchmark not in LAYOUTS:
        raise ConfigError(f"benchmark {benchmark!r} is not one of {', '.join(BENCHMARKS)}")
    extra: dict[str, float | str] = {}
    if benchmark == "judge":
        verdicts = read_verdicts(path, model, **({"expected": expected} if expected else {}))
        entries = verdicts.entries
        extra = {
            "model": verdicts.model,
            "baseline": verdicts.baseline,
            "agreement between orders, %": verdicts.agreement,
            "winner stands first, %": verdicts.first_placed,
            "ties, %": verdicts.ties,
        }
    else:
        entries = READERS[benchmark](path)
        entries.expected = expected or entries.expected
    if not entries.items:
        why = "; ".join(entries.notes[:1]) or "it is empty"
        raise DataError(f"{path}: has no answer in a layout of {benchmark} ({why})")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    rows = table(LAYOUTS[benchmark], entries, resamples, seed)
    return Scored(benchmark, str(path), digest, entries, rows, resamples, seed, extra)


def counts(entries: Entries) -> dict[str, int | None]:
    """What the denominators leave out or count twice, by kind."""
    seen = entries.first().values()
    correct = sum(e.correct for e in seen)
    return {
        "expected": entries.expected,
        "items": entries.distinct,
        "in the denominator": sum(e.counted for e in entries.items),
        "missing": entries.missing if entries.expected else None,
        "unanswered": entries.problems["unanswered"],
        "duplicate": entries.problems["duplicate"],
        "malformed": entries.problems["malformed"],
        "missing videos": entries.problems["missing video"],
        "correct, each item once": correct,
    }


def strict_accuracy(entries: Entries) -> tuple[int, int, float]:
    """(correct, of how many, percent) with every item once and everything not answered wrong.

    The denominator is the benchmark's size if known, or what the file has, malformed rows included.
    """
    correct = sum(e.correct for e in entries.first().values())
    whole = max(entries.expected or 0, entries.distinct)
    if not entries.expected:
        whole += entries.problems["malformed"]
    return correct, whole, 100 * correct / whole if whole else math.nan


def find_commentaries(paths: list[str], reference: str | None) -> tuple[list[Path], str | Path] | None:
    """The predictions and the transcripts, where two runs are of commentary; None where they are not.

    Args:
        paths: prediction files, or folders of `livecc evaluate livesports-cc`.
        reference: the transcripts, needed for files.

    Raises:
        ConfigError: one is of commentary and the other not, or their transcripts differ.
        DataError: a path is not there, or a folder holds no finished evaluation.
    """
    files, settings = [], []
    for given in paths:
        path, setting = Path(given), None
        if not path.exists():
            raise DataError(f"{given}: there is no such file or folder")
        if path.is_dir():
            report = load_json(path / "report.json")
            if report["benchmark"] == "commentary":
                setting, path = report["setting"], path / report["results"]
        files.append(path)
        settings.append(setting)
    known = [s for s in settings if s is not None]
    if reference is None and not known:
        return None
    if reference is None:
        if len(known) < len(paths):
            raise ConfigError("only one of the two is of commentary; for files, give --reference")
        if len({s.get("annotation_sha256") for s in known}) > 1 or "annotation" not in known[0]:
            raise ConfigError("the runs have different transcripts: give --reference")
        reference = known[0]["annotation"]
    return files, reference


def find_results(paths: list[str], benchmark: str | None) -> tuple[list[Path], str]:
    """The results files meant by files or by folders of `livecc evaluate`, and their benchmark.

    Raises:
        ConfigError: they are of different benchmarks, or none is said.
        DataError: a folder holds no finished evaluation.
    """
    files, names = [], {benchmark} if benchmark else set()
    for given in paths:
        path = Path(given)
        if path.is_dir():
            report = load_json(path / "report.json")
            names.add(report["benchmark"])
            path = path / report["results"]
        files.append(path)
    if len(names) != 1:
        said = f"the runs are of {' and '.join(sorted(names))}" if names else "give --benchmark"
        raise ConfigError(f"what is compared must be one benchmark: {said}")
    return files, names.pop()
