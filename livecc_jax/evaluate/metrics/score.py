"""Scores a results file by the rule of its benchmark: what `livecc score` and reports show."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError, DataError
from livecc_jax.evaluate.benchmarks.catalog import TABLE_LAYOUTS, TableLayout
from livecc_jax.evaluate.benchmarks.results import RESULT_READERS
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswers
from livecc_jax.evaluate.metrics.accuracy_table import TableRow, accuracy_table
from livecc_jax.evaluate.metrics.statistics import CONFIDENCE_LEVEL, RESAMPLES
from livecc_jax.evaluate.metrics.verdicts import read_verdicts

BENCHMARKS = tuple(TABLE_LAYOUTS)


@dataclass
class BenchmarkScore:
    """A scored results file.

    Attributes:
        benchmark: Name of the benchmark.
        path: Path of the results file.
        sha256: Hash of the results file.
        answers: Scored answers.
        table: Accuracies of all groups.
        resamples: Number of bootstrap resamples behind the intervals.
        seed: Seed of the bootstrap.
        extra: Other figures of the benchmark, by name.
    """

    benchmark: str
    path: str
    sha256: str
    answers: ScoredAnswers
    table: list[TableRow]
    resamples: int
    seed: int
    extra: dict[str, float | str] = field(default_factory=dict)

    @property
    def layout(self) -> TableLayout:
        """Table layout of the benchmark."""
        return TABLE_LAYOUTS[self.benchmark]

    @property
    def headline(self) -> TableRow:
        """The accuracy that a model is usually quoted with."""
        return next(r for r in self.table if r.name == self.layout.headline)

    def to_json(self) -> dict[str, Any]:
        """Returns everything that a report states; nan becomes null."""
        return {
            "benchmark": self.benchmark,
            "title": self.layout.title,
            "file": self.path,
            "sha256": self.sha256,
            "headline": self.headline.to_json(),
            "counts": count_answers(self.answers),
            "notes": self.answers.notes,
            "interval": {
                "level": CONFIDENCE_LEVEL,
                "method": "percentile bootstrap over videos",
                "resamples": self.resamples,
                "seed": self.seed,
            },
            "extra": {
                k: None if isinstance(v, float) and math.isnan(v) else v for k, v in self.extra.items()
            },
            "rows": [r.to_json() for r in self.table],
        }


def score_benchmark(
    benchmark: str,
    path: str | Path,
    *,
    model: str | None = None,
    expected: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BenchmarkScore:
    """Scores a results file by its benchmark's own rule.

    Args:
        benchmark: One of BENCHMARKS.
        path: Results file in a published layout (docs/evaluation.md).
        model: For judge verdicts: name of the model whose wins count, if the file's name does not say.
        expected: Number of answers (for verdicts, events) that there should be; by default the
            benchmark's own number.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: The benchmark is unknown.
        DataError: The file cannot be read, or holds no answer.
    """
    if benchmark not in TABLE_LAYOUTS:
        raise ConfigError(f"benchmark {benchmark!r} is not one of {', '.join(BENCHMARKS)}")
    extra: dict[str, float | str] = {}
    if benchmark == "judge":
        verdicts = read_verdicts(path, model, **({"expected": expected} if expected else {}))
        answers = verdicts.answers
        extra = {
            "model": verdicts.model,
            "baseline": verdicts.baseline,
            "agreement between orders, %": verdicts.order_agreement,
            "winner stands first, %": verdicts.first_position_wins,
            "ties, %": verdicts.ties,
        }
    else:
        answers = RESULT_READERS[benchmark](path)
        answers.expected = expected or answers.expected
    if not answers.items:
        reason = "; ".join(answers.notes[:1]) or "it is empty"
        raise DataError(f"{path}: has no answer in a layout of {benchmark} ({reason})")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    table = accuracy_table(TABLE_LAYOUTS[benchmark], answers, resamples, seed)
    return BenchmarkScore(benchmark, str(path), digest, answers, table, resamples, seed, extra)


def count_answers(answers: ScoredAnswers) -> dict[str, int | None]:
    """Returns the number of answers of each kind, by the names that reports use."""
    first = answers.first_by_id().values()
    return {
        "expected": answers.expected,
        "items": answers.distinct,
        "in the denominator": sum(a.in_denominator for a in answers.items),
        "missing": answers.missing if answers.expected else None,
        "unanswered": answers.problems["unanswered"],
        "duplicate": answers.problems["duplicate"],
        "malformed": answers.problems["malformed"],
        "missing videos": answers.problems["missing video"],
        "correct, each item once": sum(a.correct for a in first),
    }


def strict_accuracy(answers: ScoredAnswers) -> tuple[int, int, float]:
    """Returns (correct, total, percent), counting each item once and every missing answer as wrong.

    The total is the size of the benchmark if it is known, and otherwise the number of items in the
    file, malformed records included.
    """
    correct = sum(a.correct for a in answers.first_by_id().values())
    total = max(answers.expected or 0, answers.distinct)
    if not answers.expected:
        total += answers.problems["malformed"]
    return correct, total, 100 * correct / total if total else math.nan
