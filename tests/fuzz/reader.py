"""What the fuzzer needs to know of a reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reader:
    """A reader of the package, good files for it, and an independent reader of the same files.

    Attributes:
        name: Its name on the command line.
        prepare: Writes good files into an empty folder.
        files: Returns the files of that folder which are to be damaged, relative to it.
        read: Reads a damaged file, given the folder and the file's name, and returns a value.
        differs: Given the folder, the file and the value, reads it independently and returns in words
            what differs; "" if nothing does.
        is_text: Whether files are JSON or other text, so that numbers and words are damaged as such.
        share: Inputs, relative to other readers.
        fast: Inputs in the fast test suite.
    """

    name: str
    prepare: Callable[[Path], None]
    files: Callable[[Path], Sequence[str]]
    read: Callable[[Path, str], Any]
    differs: Callable[[Path, str, Any], str]
    is_text: bool = False
    share: float = 1.0
    fast: int = 30


def all_files(folder: Path) -> list[str]:
    """Returns all files of a folder, relative to it, in order."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
