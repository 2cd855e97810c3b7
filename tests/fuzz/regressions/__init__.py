"""Inputs at which a reader once failed: READER.jsonl, an object a line.

    {"file": damaged file, "at": byte, "remove": number of bytes, "insert": base64 of zlib,
     "why": what failed, "refused": whether it must be refused}

The change applies to the good file that the reader's `prepare` makes. With "remove" of -1 everything is
replaced.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import Input

FOLDER = Path(__file__).parent
WHOLE_BYTES = (
    20_000  # files up to this size are kept whole, so that they stay the same whatever `prepare` makes
)


def describe(good: bytes, damaged: Input) -> dict[str, Any]:
    """Returns the JSON object of a damaged file.

    Args:
        good: The good file's contents.
        damaged: The damaged file.
    """
    at, remove, insert = 0, -1, damaged.data
    if len(insert) > WHOLE_BYTES and len(good) > WHOLE_BYTES:
        at = _common(good, insert)
        end = _common(good[at:][::-1], insert[at:][::-1])
        remove, insert = len(good) - at - end, insert[at : len(insert) - end]
    text = base64.b64encode(zlib.compress(insert, 9)).decode()
    return {"file": damaged.file, "at": at, "remove": remove, "insert": text}


def _common(a: bytes, b: bytes) -> int:
    """Returns the length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def restore(kept: dict[str, Any], folder: Path) -> Input:
    """Returns the damaged file of a JSON object.

    Args:
        kept: What `describe` returned.
        folder: Folder of the good files.
    """
    data = zlib.decompress(base64.b64decode(kept["insert"]))
    if kept["remove"] >= 0:
        good = (folder / kept["file"]).read_bytes()
        data = good[: kept["at"]] + data + good[kept["at"] + kept["remove"] :]
    return Input(kept["file"], data)


def load(reader: str, folder: Path) -> list[tuple[str, bool, Input]]:
    """Returns (why, whether it must be refused, damaged file) of every kept input of a reader.

    Args:
        reader: Name of the reader.
        folder: Folder of its good files.
    """
    path = FOLDER / f"{reader}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = map(json.loads, lines)
    return [(k["why"], k.get("refused", False), restore(k, folder)) for k in kept]
