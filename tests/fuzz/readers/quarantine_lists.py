"""Quarantine lists; Python's `json` reads them independently."""

import json
from pathlib import Path

from livecc_jax.data.rows.quarantine import Quarantine, Quarantined
from tests.fuzz.reader import Reader, all_files


def _prepare(folder: Path) -> None:
    entries = [
        Quarantined(i, "lines.jsonl", i + 1, "a.mp4: is cut short", row) for i, row in ((3, -1), (5, 7))
    ]
    Quarantine(entries).save(folder / "quarantine.jsonl")


def _read(folder: Path, file: str):
    return Quarantine.load(folder / file)


def _differs(folder: Path, file: str, value) -> str:
    lines = [json.loads(line) for line in (folder / file).read_bytes().split(b"\n") if line.strip()]
    expected = {(e["example"], e.get("row", -1)) for e in lines}
    return "" if value.excluded == expected else "other examples than in the file"


READER = Reader("quarantine", _prepare, all_files, _read, _differs, is_text=True, share=0.5, fast=40)
