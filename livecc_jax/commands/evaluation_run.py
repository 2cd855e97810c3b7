"""What the kinds of `livecc evaluate` share: beginning or resuming a run, its details, its summary."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_jax.commands.options import media_rules

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from livecc_jax.checkpoints.open import Checkpoint
    from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.rules import MediaRules


def open_run(
    args: argparse.Namespace,
    annotation: Path,
    benchmark_settings: dict[str, Any],
    usual_budget: str = "reference",
) -> tuple[Path, dict[str, Any], Checkpoint, PixelBudget]:
    """Begins or resumes the run folder.

    Args:
        args: Arguments of the command.
        annotation: Annotation of the benchmark.
        benchmark_settings: Further settings, which a resumed run must have too.
        usual_budget: Pixel budget without `--pixel-budget`; "" takes that of the checkpoint.

    Returns:
        (folder, settings, checkpoint, budget).
    """
    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.evaluate.run.run_folder import file_hash, lock_settings
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.rules import EARLIER

    checkpoint = open_checkpoint(args.model)
    budget = PixelBudget.parse(args.pixel_budget or usual_budget or checkpoint.livecc.pixel_budget)
    settings = {
        "benchmark": args.benchmark,
        "model": str(checkpoint.path),
        "annotation": str(annotation.absolute()),
        "annotation_sha256": file_hash(annotation),
        "positions": args.positions or checkpoint.livecc.positions,
        "pixel_budget": str(budget),
        "dtype": args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16"),
    } | benchmark_settings
    folder = Path(args.out)
    rules = run_rules(args, folder)
    if rules != EARLIER:
        settings["media_rules"] = rules.to_json()
    lock_settings(folder, settings)
    return folder, settings, checkpoint, budget


def run_rules(args: argparse.Namespace, folder: Path) -> MediaRules:
    """Returns the media rules of a run; one that was begun before they were recorded keeps its own."""
    from livecc_jax.evaluate.benchmarks.record_files import load_json
    from livecc_jax.media.rules import DEFAULT, EARLIER

    rules, begun = media_rules(args), folder / "run.json"
    if rules == DEFAULT and begun.exists() and "media_rules" not in load_json(begun):
        return EARLIER
    return rules


def settings_rules(settings: dict[str, Any], folder: Path) -> MediaRules:
    """Returns the media rules among the settings of a run."""
    from livecc_jax.media.rules import MediaRules

    return MediaRules.from_json(settings.get("media_rules"), str(folder / "run.json"))


def run_details(
    problem_log: ProblemLog, answers: dict[str, dict[str, Any]], mesh: Mesh | None = None
) -> dict[str, Any]:
    """Returns what a report states besides the settings: the devices, the problems and the failures."""
    import jax

    failures = [f"{k}: {v['error']}" for k, v in answers.items() if "error" in v]
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "mesh": {axis: n for axis, n in mesh.shape.items() if n > 1} if mesh else None,
        "processes": jax.process_count(),
        "annotation_problems": {k: v for k, v in problem_log.problems.items() if v},
        "annotation_notes": problem_log.notes,
        "could_not_be_asked": len(failures),
        "failures": failures[:20],
    }


def print_summary(folder: Path, results: str, settings: dict[str, Any]) -> None:
    """Prints what could not be used, and which files were written."""
    if problems := settings["annotation_problems"]:
        print(f"Annotation problems: {', '.join(f'{v:,} {k}' for k, v in problems.items())}.")
    if failures := settings["could_not_be_asked"]:
        print(f"Could not be answered: {failures:,}, the first: {settings['failures'][0]}")
    print(f"written to {folder}: {results}, report.md, report.html, report.json")
