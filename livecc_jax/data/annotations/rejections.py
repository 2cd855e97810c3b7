"""Reasons for which conversations of annotation files are rejected: locating and counting them."""

from __future__ import annotations

import re

from livecc_jax.redact import displayable


def with_location(path: str, line: int, reason: str) -> str:
    """Returns a reason that names annotation file and line.

    Args:
        path: Path of the annotation file.
        line: Number of the line, from 1.
        reason: The reason; it may name file and line already.
    """
    location = displayable(f"{path} line {line}: ")  # as messages have it
    return reason if reason.startswith(location) else location + reason


def reason_category(reason: str, path: str) -> str:
    """Removes file names, quoted text and numbers from a reason, so that equal reasons are counted.

    Args:
        reason: The reason as a sentence.
        path: Path of the annotation file.
    """
    text = reason.removeprefix(path)
    text = re.sub(r"^ line \d+: ", "", text)
    text = re.sub(r"^\S*[/\\.]\S*: ", "", text)  # the name of a video
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)", "_", text)
    return re.sub(r"\d+(\.\d+)?", "#", text)
