"""The columns of an index: what they are, and writing them in bounded memory."""

from __future__ import annotations

import shutil
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.plan import ExamplePlan
from livecc_jax.data.split import Piece

COLUMNS = {
    "source": np.int32,  # number of the annotation file in meta.json
    "line": np.int64,  # number of the line in it, from 0
    "pieces": np.int64,  # [n, 4]: the piece of a long streaming example, -1 for a whole one
    "tokens": np.int32,
    "targets": np.int32,
    "windows": np.int32,
    "frame_starts": np.int64,  # frames of example i: frame_times_us[starts[i] : starts[i + 1]]
    "frame_times_us": np.int64,
    "media_starts": np.int64,  # likewise, rows of media
    "media": np.int32,  # [M, 3]: frame pairs, height and width in pixels
}
WHOLE = (-1, -1, -1, -1)
WIDTHS = {"pieces": 4, "media": 3}  # columns with more than one number a row


@dataclass(frozen=True)
class Entry:
    """What the index knows of an example."""

    tokens: int
    targets: int
    windows: int
    frame_times_us: np.ndarray  # int64 [F]
    media: np.ndarray  # int32 [m, 3]

    @staticmethod
    def of(plan: ExamplePlan, window: int) -> Entry:
        """The entry of a plan, for windows of `window` patches."""
        media = [(m.pairs, m.height, m.width) for m in plan.media]
        return Entry(
            plan.tokens,
            plan.targets,
            plan.windows(window),
            plan.frame_times_us,
            np.array(media, np.int32).reshape(-1, 3),
        )

    def matches(self, other: Entry) -> bool:
        """Whether both describe the same thing."""
        return (
            (self.tokens, self.targets, self.windows) == (other.tokens, other.targets, other.windows)
            and np.array_equal(self.frame_times_us, other.frame_times_us)
            and np.array_equal(self.media, other.media)
        )


class ColumnWriter:
    """Columns that grow on disk, so that memory does not with their length."""

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._folder = folder
        self._parts = {name: open(folder / f"{name}.part", "wb") for name in COLUMNS}  # noqa: SIM115
        self._frames = self._media = 0
        self._put("frame_starts", 0)
        self._put("media_starts", 0)

    def add(self, source: int, line: int, piece: Piece | None, plan: ExamplePlan, window: int) -> None:
        """Append an example."""
        entry = Entry.of(plan, window)
        self._frames += len(entry.frame_times_us)
        self._media += len(entry.media)
        self.size += 1
        for name, value in {
            "source": source,
            "line": line,
            "pieces": WHOLE if piece is None else astuple(piece),
            "tokens": entry.tokens,
            "targets": entry.targets,
            "windows": entry.windows,
            "frame_starts": self._frames,
            "frame_times_us": entry.frame_times_us,
            "media_starts": self._media,
            "media": entry.media,
        }.items():
            self._put(name, value)

    def _put(self, name: str, value: Any) -> None:
        self._parts[name].write(np.asarray(value, COLUMNS[name]).tobytes())

    def close(self) -> None:
        """Release the files."""
        for part in self._parts.values():
            part.close()

    def finish(self) -> None:
        """Turn the columns into .npy files."""
        self.close()
        for name, dtype in COLUMNS.items():
            raw = self._folder / f"{name}.part"
            width = WIDTHS.get(name)
            rows = raw.stat().st_size // np.dtype(dtype).itemsize // (width or 1)
            shape = (rows, width) if width else (rows,)
            with open(raw, "rb") as source, open(self._folder / f"{name}.npy", "wb") as target:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(target, header)
                shutil.copyfileobj(source, target, 1 << 20)
            raw.unlink()
