"""Finds the results files of runs that are compared: files, or folders that `livecc evaluate` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError, DataError
from livecc_jax.evaluate.benchmarks.record_files import load_json


def find_benchmark_results(paths: list[str], benchmark: str | None) -> tuple[list[Path], str]:
    """Returns the results files and the name of their benchmark.

    Args:
        paths: Results files, or folders that `livecc evaluate` wrote.
        benchmark: Name of the benchmark; only files need it.

    Raises:
        ConfigError: The runs are of different benchmarks, or no benchmark is named.
        DataError: A folder holds no finished evaluation.
    """
    files, benchmarks = [], {benchmark} if benchmark else set()
    for run in paths:
        path = Path(run)
        if path.is_dir():
            report = _read_report(path)
            benchmarks.add(report["benchmark"])
            path = path / report["results"]
        files.append(path)
    if len(benchmarks) != 1:
        reason = (
            f"the runs are of {' and '.join(sorted(benchmarks))}" if benchmarks else "give --benchmark"
        )
        raise ConfigError(f"what is compared must be one benchmark: {reason}")
    return files, benchmarks.pop()


def find_commentary_results(
    paths: list[str], reference: str | None
) -> tuple[list[Path], str | Path] | None:
    """Returns the predictions files and the references file of two commentary runs.

    Args:
        paths: Predictions files, or folders that `livecc evaluate livesports-cc` wrote.
        reference: References file; only files need it.

    Returns:
        None if the runs are not of commentary.

    Raises:
        ConfigError: Only one run is of commentary, or their references differ.
        DataError: A path does not exist, or a folder holds no finished evaluation.
    """
    files, settings = [], []
    for run in paths:
        path, setting = Path(run), None
        if not path.exists():
            raise DataError(f"{run}: there is no such file or folder")
        if path.is_dir():
            report = _read_report(path)
            if report["benchmark"] == "commentary":
                setting, path = report["setting"], path / report["results"]
        files.append(path)
        settings.append(setting)
    commentary_settings = [s for s in settings if s is not None]
    if reference is None and not commentary_settings:
        return None
    if reference is None:
        if len(commentary_settings) < len(paths):
            raise ConfigError("only one of the two is of commentary; for files, give --reference")
        hashes = {s.get("annotation_sha256") for s in commentary_settings}
        if len(hashes) > 1 or "annotation" not in commentary_settings[0]:
            raise ConfigError("the runs have different transcripts: give --reference")
        reference = commentary_settings[0]["annotation"]
    return files, reference


def _read_report(folder: Path) -> dict[str, Any]:
    """Returns the report of an evaluation's folder.

    Raises:
        DataError: There is none, or it is not what an evaluation writes.
    """
    file = folder / "report.json"
    report = load_json(file)
    fields = report if isinstance(report, dict) else {}
    is_valid = all(isinstance(fields.get(key), str) for key in ("benchmark", "results"))
    if not is_valid or "\0" in fields["results"]:
        raise DataError(f"{file}: is not the report of an evaluation")
    if fields["benchmark"] == "commentary" and not isinstance(fields.get("setting"), dict):
        raise DataError(f"{file}: lacks the settings of the evaluation")
    return fields
