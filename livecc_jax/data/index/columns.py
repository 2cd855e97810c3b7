"""The columns of an index: what they are, filling them shard by shard, and joining shards on disk."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from livecc_jax.data.examples.example import MediaPlan
from livecc_jax.data.examples.media_files import FileFacts
from livecc_jax.data.examples.split import Piece
from livecc_jax.errors import ExampleError
from livecc_jax.media.video import VideoInfo

STREAM, CONVERSATION, PROVISIONAL = range(3)  # values of the column `kind`
WHOLE = (-1, -1, -1, -1)
GAP_LIMIT = 1 << 32  # us


@dataclass(frozen=True)
class Column:
    """One .npy file.

    per: what has a row, as the name of the column that counts it; "" where `*_starts` delimit rows.
    width: numbers a row (0: one, as a plain array). starts_of: the column it delimits.
    """

    dtype: type
    per: str = ""
    width: int = 0
    starts_of: str = ""


COLUMNS = {
    "source": Column(np.int32, "tokens"),  # number of the annotation file in meta.json
    "line": Column(np.int64, "tokens"),  # number of the line in it, from 0
    "pieces": Column(
        np.int64, "tokens", 4
    ),  # the piece of a long streaming example, -1 for a whole one
    "kind": Column(np.uint8, "tokens"),
    "tokens": Column(np.int32, "tokens"),
    "targets": Column(np.int32, "tokens"),
    "windows": Column(np.int32, "tokens"),
    "text_starts": Column(np.int64, "tokens", starts_of="text"),
    "media_starts": Column(np.int64, "tokens", starts_of="media_file"),
    "text": Column(np.uint8),  # JSON of what is said and asked (data/index/codec.py)
    "media_file": Column(np.int64),  # row of the files' columns
    "media_size": Column(np.int32, "media_file", 2),  # height and width in pixels, as shown
    "media_first_us": Column(np.int64, "media_file"),  # timestamp of its first frame
    "frame_starts": Column(np.int64, "media_file", starts_of="frame_gaps_us"),
    "frame_gaps_us": Column(np.uint32),  # from the frame before; 0 for the first one
    "file_size": Column(np.int64, "file_size"),
    "file_mtime_ns": Column(np.int64, "file_size"),
    "file_check": Column(np.int64, "file_size"),
    "file_shape": Column(np.int64, "file_size", 4),  # frame duration and lead in us, width, height
    "path_starts": Column(np.int64, "file_size", starts_of="path"),
    "path": Column(np.uint8),
}
# A copy of the files has other times of change, and is the same.
NOT_IN_DIGEST = ("file_mtime_ns",)


class Shard:
    """The columns of some examples, in memory."""

    def __init__(self) -> None:
        self._rows: dict[str, list] = {name: [] for name in COLUMNS}
        self._at = {c.starts_of: 0 for c in COLUMNS.values() if c.starts_of}
        self._files: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows["tokens"])

    def file(self, path: str, facts: FileFacts) -> int:
        """The row of a file, made when it is new. `path` is as the index stores it."""
        if path not in self._files:
            self._files[path] = len(self._files)
            self._ragged("path", "path_starts", np.frombuffer(path.encode(), np.uint8))
            for name in ("size", "mtime_ns", "check"):
                self._rows[f"file_{name}"].append(getattr(facts, name))
            self._rows["file_shape"].append(
                (facts.frame_duration_us, facts.lead_us, facts.width, facts.height)
            )
        return self._files[path]

    def add(
        self,
        source: int,
        line: int,
        piece: Piece | None,
        kind: int,
        media: tuple[MediaPlan, ...],
        need: tuple[int, int, int],
        text: bytes,
        files: Iterable[tuple[str, FileFacts]],
    ) -> None:
        """Append an example.

        Args:
            source: number of its annotation file.
            line: number of its line.
            piece: of a long example.
            kind: STREAM, CONVERSATION or PROVISIONAL.
            media: what it shows.
            need: tokens, targets and windows it takes.
            text: what data/index/codec.py makes of it.
            files: path and facts of each medium's file.

        Raises ExampleError when its frames are too far apart to be stored.
        """
        gaps = []
        for medium in media:
            video = isinstance(medium.source, VideoInfo)
            pts = medium.source.pts_us[medium.frames] if video else np.zeros(0, np.int64)
            gaps.append((int(pts[0]) if len(pts) else 0, np.diff(pts, prepend=pts[:1])))
            if len(pts) and gaps[-1][1].max() >= GAP_LIMIT:
                raise ExampleError("frames that follow one another are more than 71 minutes apart")
        for medium, (first, gap), file in zip(media, gaps, files, strict=True):
            self._rows["media_file"].append(self.file(*file))
            self._rows["media_size"].append((medium.height, medium.width))
            self._rows["media_first_us"].append(first)
            self._ragged("frame_gaps_us", "frame_starts", gap)
        self._at["media_file"] = len(self._rows["media_file"])
        self._rows["media_starts"].append(self._at["media_file"])
        self._ragged("text", "text_starts", np.frombuffer(text, np.uint8))
        for name, value in {
            "source": source,
            "line": line,
            "pieces": WHOLE if piece is None else astuple(piece),
            "kind": kind,
            "tokens": need[0],
            "targets": need[1],
            "windows": need[2],
        }.items():
            self._rows[name].append(value)

    def _ragged(self, name: str, starts: str, values: np.ndarray) -> None:
        self._rows[name].append(values)
        self._at[name] += len(values)
        self._rows[starts].append(self._at[name])

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns; `*_starts` without their leading 0."""
        ragged = {c.starts_of for c in COLUMNS.values()} - {"media_file"}
        made = {}
        for name, column in COLUMNS.items():
            rows = self._rows[name]
            if name in ragged:
                rows = np.concatenate(rows) if rows else []
            shape = (-1, column.width) if column.width else (-1,)
            made[name] = np.array(rows, column.dtype).reshape(shape)
        return made


class ColumnWriter:
    """Columns that grow on disk, so that memory does not with their length."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = dict.fromkeys(COLUMNS, 0)
        self._parts = {name: open(folder / f"{name}.part", "wb") for name in COLUMNS}  # noqa: SIM115
        for name, column in COLUMNS.items():
            if column.starts_of:
                self._put(name, np.zeros(1, column.dtype))

    def __len__(self) -> int:
        return self._rows["tokens"]

    def add(self, shard: dict[str, np.ndarray]) -> None:
        """Append a shard's columns."""
        bases = {
            name: self._rows[column.starts_of] for name, column in COLUMNS.items() if column.starts_of
        }
        bases["media_file"] = self._rows["file_size"]
        for name in COLUMNS:
            self._put(name, shard[name] + bases[name] if name in bases else shard[name])

    def _put(self, name: str, values: np.ndarray) -> None:
        self._parts[name].write(np.ascontiguousarray(values, COLUMNS[name].dtype).tobytes())
        self._rows[name] += len(values)

    def close(self) -> None:
        """Release the files."""
        for part in self._parts.values():
            part.close()

    def finish(self, settings: str) -> str:
        """Turn the columns into .npy files.

        Returns:
            A digest of `settings` and the columns.
        """
        self.close()
        total = hashlib.sha256(settings.encode())
        for name, column in COLUMNS.items():
            raw = self._folder / f"{name}.part"
            rows = self._rows[name]
            shape = (rows, column.width) if column.width else (rows,)
            with open(raw, "rb") as source, open(self._folder / f"{name}.npy", "wb") as target:
                header = {"descr": np.dtype(column.dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(target, header)
                shutil.copyfileobj(source, target, 1 << 20)
                source.seek(0)
                while name not in NOT_IN_DIGEST and (block := source.read(1 << 20)):
                    total.update(block)
            raw.unlink()
        return total.hexdigest()[:16]
