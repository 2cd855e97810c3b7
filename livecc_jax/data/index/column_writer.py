"""Fills the columns of an index: one shard in memory, and shards appended to columns on disk."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

import numpy as np

from livecc_jax.data.examples.media_files import FileIdentity
from livecc_jax.data.examples.split import ExampleSlice
from livecc_jax.data.index.checksums import BLOCK_BYTES, block_checksums
from livecc_jax.data.index.columns import COLUMNS, NOT_IN_DIGEST
from livecc_jax.errors import ExampleError
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.video import VideoInfo

NOT_SLICED = (-1, -1, -1, -1)
MAX_GAP_US = 1 << 32  # limit of the column's dtype
READ_BYTES = 64 * BLOCK_BYTES


class Shard:
    """The columns of some examples, in memory."""

    def __init__(self) -> None:
        self._records: dict[str, list] = {name: [] for name in COLUMNS}
        self._ends = {c.starts_of: 0 for c in COLUMNS.values() if c.starts_of}
        self._files: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._records["tokens"])

    def _file_number(self, path: str, identity: FileIdentity) -> int:
        """Returns the number of a file's record, which is added for a new file."""
        if path not in self._files:
            self._append_ragged("path", "path_starts", np.frombuffer(path.encode(), np.uint8))
            self._files[path] = len(self._files)
            for name in ("size", "mtime_ns", "check"):
                self._records[f"file_{name}"].append(getattr(identity, name))
            self._records["file_shape"].append(
                (identity.frame_duration_us, identity.lead_us, identity.width, identity.height)
            )
        return self._files[path]

    def add(
        self,
        source: int,
        line: int,
        part: ExampleSlice | None,
        kind: int,
        media: tuple[MediaSlice, ...],
        sizes: tuple[int, int, int],
        text: bytes,
        files: Iterable[tuple[str, FileIdentity]],
    ) -> None:
        """Appends an example.

        Args:
            source: Number of its annotation file.
            line: Number of its line, from 0.
            part: The slice of a long example that it is; None for a whole example.
            kind: STREAM, CONVERSATION or PROVISIONAL.
            media: Media that it shows.
            sizes: Numbers of tokens, targets and windows.
            text: Its text from `index/codec.py`.
            files: Path, as the index stores it, and identity of the file of each media slice.

        Raises:
            ExampleError: Two frames in succession are too far apart to be stored, or a path is not
                UTF-8.
        """
        files = list(files)
        for path, _ in files:
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise ExampleError(f"the path {path!a:.200} is not UTF-8 text") from error
        first_and_gaps = []
        for medium in media:
            is_video = isinstance(medium.source, VideoInfo)
            pts_us = medium.source.pts_us[medium.indices] if is_video else np.zeros(0, np.int64)
            gaps_us = np.diff(pts_us, prepend=pts_us[:1])
            first_and_gaps.append((int(pts_us[0]) if len(pts_us) else 0, gaps_us))
            if len(pts_us) and gaps_us.max() >= MAX_GAP_US:
                raise ExampleError("frames that follow one another are more than 71 minutes apart")
        for medium, (first_us, gaps_us), file in zip(media, first_and_gaps, files, strict=True):
            self._records["media_file"].append(self._file_number(*file))
            self._records["media_size"].append((medium.height, medium.width))
            self._records["media_first_us"].append(first_us)
            self._append_ragged("frame_gaps_us", "frame_starts", gaps_us)
        self._ends["media_file"] = len(self._records["media_file"])
        self._records["media_starts"].append(self._ends["media_file"])
        self._append_ragged("text", "text_starts", np.frombuffer(text, np.uint8))
        for name, value in {
            "source": source,
            "line": line,
            "pieces": NOT_SLICED if part is None else astuple(part),
            "kind": kind,
            "tokens": sizes[0],
            "targets": sizes[1],
            "windows": sizes[2],
        }.items():
            self._records[name].append(value)

    def _append_ragged(self, name: str, starts: str, values: np.ndarray) -> None:
        self._records[name].append(values)
        self._ends[name] += len(values)
        self._records[starts].append(self._ends[name])

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the columns by name; `*_starts` lack their leading 0."""
        ragged = {c.starts_of for c in COLUMNS.values()} - {"media_file"}
        arrays = {}
        for name, column in COLUMNS.items():
            records = self._records[name]
            if name in ragged:
                records = np.concatenate(records) if records else []
            shape = (-1, column.width) if column.width else (-1,)
            arrays[name] = np.array(records, column.dtype).reshape(shape)
        return arrays


class ColumnWriter:
    """Columns that grow on disk, so that memory does not grow with the number of examples.

    Args:
        folder: Folder of the index.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lengths = dict.fromkeys(COLUMNS, 0)
        self._parts = {name: open(folder / f"{name}.part", "wb") for name in COLUMNS}  # noqa: SIM115
        for name, column in COLUMNS.items():
            if column.starts_of:
                self._append(name, np.zeros(1, column.dtype))

    def __len__(self) -> int:
        return self._lengths["tokens"]

    def add(self, shard: dict[str, np.ndarray]) -> None:
        """Appends the columns of a shard."""
        bases = {
            name: self._lengths[column.starts_of]
            for name, column in COLUMNS.items()
            if column.starts_of
        }
        bases["media_file"] = self._lengths["file_size"]
        for name in COLUMNS:
            self._append(name, shard[name] + bases[name] if name in bases else shard[name])

    def _append(self, name: str, values: np.ndarray) -> None:
        self._parts[name].write(np.ascontiguousarray(values, COLUMNS[name].dtype).tobytes())
        self._lengths[name] += len(values)

    def close(self) -> None:
        """Closes the files."""
        with contextlib.ExitStack() as stack:  # which closes all, also when one of them fails
            for part in self._parts.values():
                stack.callback(part.close)

    def finish(self, settings: str) -> tuple[str, list[int]]:
        """Turns the columns into .npy files.

        Returns:
            A digest of `settings` and the columns, and the checksums of all blocks.
        """
        self.close()
        digest, checksums = hashlib.sha256(settings.encode()), []
        for name, column in COLUMNS.items():
            part = self._folder / f"{name}.part"
            length = self._lengths[name]
            shape = (length, column.width) if column.width else (length,)
            with open(part, "rb") as source, open(self._folder / f"{name}.npy", "wb") as target:
                header = {"descr": np.dtype(column.dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(target, header)
                while block := source.read(READ_BYTES):
                    target.write(block)
                    checksums += block_checksums(block)
                    if name not in NOT_IN_DIGEST:
                        digest.update(block)
            part.unlink()
        return digest.hexdigest()[:16], checksums
