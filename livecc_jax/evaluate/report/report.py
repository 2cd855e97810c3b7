"""Writes the report of an evaluation: report.md, report.html and report.json."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.metrics.commentary_score import CommentaryScore
from livecc_jax.evaluate.metrics.paired_accuracy import AccuracyComparison
from livecc_jax.evaluate.metrics.score import BenchmarkScore
from livecc_jax.evaluate.metrics.world_score import WorldScore
from livecc_jax.evaluate.report.benchmark_blocks import benchmark_blocks, comparison_blocks
from livecc_jax.evaluate.report.commentary_blocks import commentary_blocks
from livecc_jax.evaluate.report.world_blocks import world_blocks
from livecc_jax.evaluate.report.wrong_answers import wrong_answer_blocks
from livecc_jax.reports.page import Details, Heading, Table, write_html, write_markdown
from livecc_jax.version import __version__
from livecc_jax.writing import make_folder, write_text

PACKAGES = ("numpy", "jax", "jaxlib", "flax", "opencv-python-headless", "av", "tokenizers")


def write_report(
    folder: str | Path,
    score: BenchmarkScore | CommentaryScore | WorldScore,
    config: dict[str, Any],
    comparison: tuple[AccuracyComparison, str] | None = None,
    results_file: str | None = None,
    sources: Mapping[str, VideoSource] | None = None,
) -> None:
    """Writes report.md, report.html and report.json.

    Args:
        folder: Folder to write to; it is created if it does not exist.
        score: The score to report.
        config: Settings of the evaluation, stated in the report as they are.
        comparison: Paired comparison with another run, and the name of that run. Differences are this
            run minus the other one.
        results_file: Name of the results file in a run folder, by which `livecc compare` finds it.
        sources: Videos of a benchmark's questions by question id; wrong answers are shown with frames
            of them.

    Raises:
        OutputError: A file cannot be written.
    """
    folder = Path(folder)
    make_folder(folder)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    settings = {"made": created} | versions() | config
    if isinstance(score, BenchmarkScore):
        blocks = benchmark_blocks(score) + wrong_answer_blocks(score, sources or {})
    elif isinstance(score, WorldScore):
        blocks = world_blocks(score)
    else:
        blocks = commentary_blocks(score)
    record = score.to_json()
    if comparison:
        blocks += comparison_blocks(*comparison)
        record["difference"] = [difference.to_json() for difference in comparison[0].differences]
    rows = [(k, _setting_text(v)) for k, v in settings.items()]
    blocks += [Heading("Settings"), Details("Show them", [Table(("", ""), rows, text_columns=2)])]
    record |= {"setting": settings, "results": results_file}
    write_markdown(folder / "report.md", blocks)
    write_html(folder / "report.html", blocks)
    text = json.dumps(record, indent=1, ensure_ascii=False, default=str)
    write_text(folder / "report.json", text + "\n")


def versions() -> dict[str, str]:
    """Returns the versions of this project, of Python and of the packages that results depend on.

    It does not import the packages.
    """
    versions_by_name = {"livecc_jax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions_by_name[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions_by_name | {"machine": f"{platform.system()} {platform.machine()}"}


def _setting_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
