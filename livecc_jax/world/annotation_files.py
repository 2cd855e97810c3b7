"""The annotation files of a world: lines of both splits, in order of matches, each file complete."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.writing import atomic_file, write_text

SPLITS = ("train", "held_out")
FILES = {
    "train": ("clean", "noisy", "questions"),
    "held_out": ("clean", "noisy", "questions", "second"),
}
BENCHMARKS = {"cc": "LiveSports-3K-CC.json", "qa": "LiveSports-3K-QA.json"}


@dataclass
class Texts:
    """What is written of one match, beside its pictures and its truth file."""

    split: str
    lines: dict[str, list[str]] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class AnnotationFiles:
    """The annotation files of both splits: lines go to temporary files until all are there.

    Args:
        out: Folder of the world.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = tempfile.TemporaryDirectory(dir=out, prefix=".livecc-")
        self._files = {
            (split, key): open(Path(self._folder.name, f"{split}-{key}"), "wb")  # noqa: SIM115
            for split in SPLITS
            for key in FILES[split]
        }
        self._offsets: dict[tuple[str, str], list[int]] = {key: [] for key in self._files}
        self._records: dict[str, list[dict[str, Any]]] = {key: [] for key in BENCHMARKS}

    def add(self, texts: Texts) -> None:
        """Appends the texts of a match."""
        for key, lines in texts.lines.items():
            file = self._files[texts.split, key]
            for line in lines:
                self._offsets[texts.split, key].append(file.tell())
                file.write(line.encode())
        for key, records in texts.records.items():
            self._records[key] += records

    def finish(self) -> dict[str, dict[str, int]]:
        """Puts the files in place, each with the offsets of its lines, and returns their lengths."""
        lines: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
        for (split, key), file in self._files.items():
            file.flush()
            offsets = self._offsets[split, key]
            lines[split][key] = len(offsets)
            path = self._out / split / f"{key}.jsonl"
            if not offsets:
                path.unlink(missing_ok=True)
                continue
            with atomic_file(path) as target, open(file.name, "rb") as source:
                while block := source.read(1 << 20):
                    target.write(block)
                target.write((json.dumps(offsets, separators=(",", ":")) + "\n").encode())
        for key, name in BENCHMARKS.items():
            if self._records[key]:
                write_text(self._out / "held_out" / name, json.dumps(self._records[key]) + "\n")
        return lines

    def close(self) -> None:
        """Removes the temporary files."""
        for file in self._files.values():
            file.close()
        self._folder.cleanup()
