"""JSON texts of any kind, through the bounded reader; Python's `json` reads them independently."""

import json
import math
from pathlib import Path

from livecc_jax.bounded_json import JsonError, read_json_file
from livecc_jax.errors import DataError
from tests.fuzz.reader import Reader, all_files

VALUE = {
    "a": [1, -2.5, 1e-7, {"b": [None, True, "text with \\ and \" and [brackets]"]}], "é": "☃",
    "long": 123456789012345678901234567890, "empty": [[], {}, ""],
}  # fmt: skip


def _prepare(folder: Path) -> None:
    (folder / "value.json").write_text(json.dumps(VALUE, ensure_ascii=False))
    (folder / "escaped.json").write_text(json.dumps(VALUE, indent=1))


def _read(folder: Path, file: str):
    try:
        return read_json_file(folder / file)
    except JsonError as error:
        raise DataError(str(error)) from error


def _differs(folder: Path, file: str, value) -> str:
    expected = json.loads((folder / file).read_bytes())
    return "" if same(value, expected) else f"{value!a:.80} is not {expected!a:.80}"


def same(a, b) -> bool:
    """Returns whether two JSON values are equal; NaN equals NaN, and 1 is neither 1.0 nor true."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


READER = Reader("json", _prepare, all_files, _read, _differs, is_text=True, share=1, fast=60)
