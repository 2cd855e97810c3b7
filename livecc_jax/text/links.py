"""Finds symbolic links that lead out of a checkpoint's folder: their targets are not part of it."""

from __future__ import annotations

from pathlib import Path


def target_outside(file: Path) -> Path | None:
    """Returns where a link leads if that is not its own folder; None for other files.

    Links of the HuggingFace cache are accepted: its snapshots point into the `blobs` beside them.
    """
    home, target = file.parent.resolve(), file.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    return None if target.parent in allowed else target
