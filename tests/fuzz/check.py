"""Reads one damaged file and says how it ended."""

from __future__ import annotations

import os
import resource
import traceback
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from livecc_jax.errors import LiveCCError
from tests.fuzz.inputs import Input
from tests.fuzz.reader import Reader

REFUSED, ACCEPTED = "refused", "accepted"
TRACEBACK, DIFFERENT, MEMORY, HANG = "traceback", "different", "memory", "hang"
FAULTS = (TRACEBACK, DIFFERENT, MEMORY, HANG)
MAX_GROWTH_BYTES = 1 << 30  # of the most memory that the process has had


@dataclass(frozen=True)
class Outcome:
    """How reading one input ended.

    Attributes:
        kind: One of the words above.
        reason: The error's message, or what differs.
        place: File and line that raised, for a traceback.
        file: The damaged file.
    """

    kind: str
    reason: str = ""
    place: str = ""
    file: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns the fields by name."""
        return asdict(self)


def check(reader: Reader, folder: Path, damaged: Input) -> Outcome:
    """Puts a damaged file in the place of the good one, reads it, and puts the good one back.

    Args:
        reader: The reader.
        folder: Folder of its good files.
        damaged: The damaged file.
    """
    path = folder / damaged.file
    good, before = path.read_bytes(), _peak_bytes()
    _replace(path, damaged.data)
    try:
        outcome = _read(reader, folder, damaged.file)
    finally:
        _replace(path, good)
    if (growth := _peak_bytes() - before) > MAX_GROWTH_BYTES and outcome.kind in (REFUSED, ACCEPTED):
        return Outcome(MEMORY, f"took {growth >> 20} MiB", file=damaged.file)
    return outcome


def _read(reader: Reader, folder: Path, file: str) -> Outcome:
    try:
        value = reader.read(folder, file)
    except LiveCCError as error:
        message = str(error)
        # A message is text for a terminal, whatever the file holds.
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" for c in message):
            return Outcome(DIFFERENT, f"the message holds controls: {message!a:.200}", file=file)
        return Outcome(REFUSED, message, file=file)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "livecc_jax" in f.filename] or frames
        place = f"{'/'.join(Path(ours[-1].filename).parts[-3:])}:{ours[-1].lineno}"
        return Outcome(TRACEBACK, f"{type(error).__name__}: {error!s:.160}", place, file)
    try:
        difference = reader.differs(folder, file, value)
    except Exception as error:
        difference = f"it was accepted, but the independent reader fails: {error!r:.200}"
    if difference:
        return Outcome(DIFFERENT, difference[:300], file=file)
    return Outcome(ACCEPTED, file=file)


def _replace(path: Path, data: bytes) -> None:
    # A new file takes the name: the old one may still be mapped into memory.
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    os.replace(fresh, path)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
