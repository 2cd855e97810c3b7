"""Reads meta.json of an index, with the types of its fields checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import JsonError, read_json_file
from livecc_jax.data.examples.encode import FORMS
from livecc_jax.errors import ConfigError, DataError
from livecc_jax.families import DEFAULT, FAMILIES
from livecc_jax.families.family import Family
from livecc_jax.media.budget import PixelBudget

FORMAT, VERSION = "livecc-index", 2
META = "meta.json"
MAX_META_BYTES = 64 << 20


def read_meta(folder: Path) -> dict[str, Any]:
    """Returns the content of an index's meta.json.

    Args:
        folder: Folder of the index.

    Raises:
        DataError: There is none, it is of another version, or a field is missing or of a wrong type.
    """
    path = folder / META
    try:
        # A folder whose name is not UTF-8 is spelled with half characters.
        meta = read_json_file(path, max_bytes=MAX_META_BYTES, half_characters=True)
    except OSError as error:
        raise DataError(
            f"{folder}: is not an index (no {META}); make one with `livecc index`"
        ) from error
    except JsonError as error:
        if "NUL" in error.reason:
            raise DataError(f"{str(folder)!a:.200}: {error}") from error
        raise DataError(f"{path}: is not readable JSON ({error})") from error
    is_index = isinstance(meta, dict) and meta.get("format") == FORMAT
    if not is_index or type(meta.get("version")) is not int or meta["version"] != VERSION:
        raise DataError(f"{path}: is not a {FORMAT} of version {VERSION}; make it again")
    for name, (is_valid, meaning) in _FIELDS.items():
        if name not in meta:
            if name in _ADDED_LATER:
                continue
            raise DataError(f"{path}: lacks a field or holds a wrong one ({name!r} is missing)")
        if not is_valid(meta[name]):
            raise DataError(
                f"{path}: lacks a field or holds a wrong one ({name!r} is {meta[name]!a:.60}, "
                f"not {meaning})"
            )
    if meta["window"] != PixelBudget.parse(meta["pixel_budget"]).max_pair_patches:
        raise DataError(
            f"{path}: lacks a field or holds a wrong one ('window' is {meta['window']}, which is not "
            f"that of pixel budget {meta['pixel_budget']})"
        )
    return meta


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _is_budget(value: Any) -> bool:
    try:
        PixelBudget.parse(value)
    except ConfigError:
        return False
    return True


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _are_reordered(value: Any) -> bool:
    return _are_counts(value) and value.keys() == {"words", "conversations"}


def _are_annotations(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, dict) and _is_text(v.get("path")) for v in value)
        and all(_is_count(v.get("lines")) for v in value)
    )


def family_of(meta: dict[str, Any]) -> Family:
    """Returns the family that an index was made for."""
    return FAMILIES[meta.get("family", DEFAULT.model_type)]


_ADDED_LATER = {"reordered", "silent_tail", "family"}  # not in every index of this version
_FIELDS = {
    "pixel_budget": (_is_budget, "a pixel budget"),
    "context": (lambda v: isinstance(v, bool), "true or false"),
    "form": (lambda v: isinstance(v, str) and v in FORMS, f"one of {', '.join(FORMS)}"),
    "family": (lambda v: isinstance(v, str) and v in FAMILIES, f"one of {', '.join(FAMILIES)}"),
    "silent_tail": (_is_count, "a number of turns"),
    "tokenizer": (_is_text, "a fingerprint"),
    "window": (lambda v: _is_count(v) and v > 0, "a number of patches"),
    "root": (_is_text, "a path"),
    "root_from_index": (_is_text, "a path"),
    "annotations": (_are_annotations, "a list of annotation files with their paths and lines"),
    "examples": (lambda v: _is_count(v) and v > 0, "a number of examples"),
    "reordered": (_are_reordered, "numbers of words and conversations"),
    "rejected": (_are_counts, "counts by name"),
    "reasons": (_are_counts, "counts by name"),
    "digest": (_is_text, "a digest"),
}
