"""An index on disk, opened: columns are memory-mapped, so millions of examples open at once."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.annotations.datasets import Annotations, open_annotations
from livecc_jax.data.examples.example import ExamplePlan, MediaPlan, plan_example
from livecc_jax.data.examples.media_files import FileFacts, MediaFiles
from livecc_jax.data.examples.split import Piece, cut
from livecc_jax.data.files import source_path
from livecc_jax.data.files.remote import folder_of, is_remote
from livecc_jax.data.files.timing import part
from livecc_jax.data.index.codec import unpack
from livecc_jax.data.index.columns import COLUMNS, CONVERSATION, PROVISIONAL, STREAM
from livecc_jax.errors import DataError, ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Example, StreamExample

FORMAT, VERSION = "livecc-index", 2
KINDS = {STREAM: "streaming", CONVERSATION: "conversations", PROVISIONAL: "provisional"}


@dataclass(frozen=True)
class Entry:
    """What the index counted of an example; frame_times_us int64 [F] of all its videos."""

    tokens: int
    targets: int
    windows: int
    frame_times_us: np.ndarray


class Index:
    """An index on disk.

    Args:
        path: its directory.
        root: what relative paths are relative to; without it where the index remembers, seen from the
            index or absolute, whichever is there.

    Raises:
        DataError: it is missing, of another version, or a column does not fit the others.
    """

    def __init__(self, path: str | Path, root: str | None = None) -> None:
        self.path = Path(path)
        meta_path = self.path / "meta.json"
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{self.path}: is not an index (no meta.json); make one with `livecc index`"
            ) from error
        except ValueError as error:
            raise DataError(f"{meta_path}: is not readable JSON") from error
        known = isinstance(meta, dict) and meta.get("format") == FORMAT
        if not known or meta.get("version") != VERSION:
            raise DataError(f"{meta_path}: is not a {FORMAT} of version {VERSION}; make it again")
        try:
            self.budget = PixelBudget.parse(meta["pixel_budget"])
            self.context: bool = meta["context"]
            self.form: str = meta["form"]
            self.tokenizer: str = meta["tokenizer"]
            self.window: int = meta["window"]
            self.digest: str = meta["digest"]
            self.rejected: dict[str, int] = meta["rejected"]
            self.reasons: dict[str, int] = meta["reasons"]
            self.annotations: list[dict] = meta["annotations"]
            self._columns = self._open(int(meta["examples"]))
            self.root = str(root or self._root(meta["root"], meta["root_from_index"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{meta_path}: lacks a field or holds a wrong one ({error})") from error
        self._files: dict[int, Annotations] = {}

    def _open(self, n: int) -> dict[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {}
        for name, column in COLUMNS.items():
            file = self.path / f"{name}.npy"
            try:
                values = np.load(file, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: cannot be read as an array") from error
            if values.dtype != column.dtype or values.shape[1:] != (column.width,) * bool(column.width):
                raise DataError(
                    f"{file}: holds {values.dtype} of shape {values.shape}, "
                    f"not rows of {column.width or 1} {np.dtype(column.dtype)}"
                )
            columns[name] = values
        starts = {c.starts_of: columns[name] for name, c in COLUMNS.items() if c.starts_of}
        for name, column in COLUMNS.items():
            if column.per:
                counted = n if column.per == "tokens" else len(columns[column.per])
                expected = counted + bool(column.starts_of)
            else:
                expected = int(starts[name][-1]) if len(starts[name]) else 0
            if len(columns[name]) != expected:
                raise DataError(f"{self.path / name}.npy: does not hold {expected} rows")
        return columns

    def _root(self, absolute: str, from_index: str) -> str:
        if not absolute or is_remote(absolute) or not from_index:
            return absolute
        beside = os.path.normpath(os.path.join(os.path.abspath(self.path), from_index))
        known = [a["path"] for a in self.annotations]
        if len(self._columns["file_size"]):
            known.append(self._stored_path(0))
        for root in (beside, absolute):
            if any(os.path.exists(source_path.resolve(k, root)) for k in known if not is_remote(k)):
                return root
        return absolute

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def tokens(self) -> np.ndarray:
        """int32 [n]."""
        return self._columns["tokens"]

    @property
    def targets(self) -> np.ndarray:
        """int32 [n]."""
        return self._columns["targets"]

    @property
    def windows(self) -> np.ndarray:
        """int32 [n]."""
        return self._columns["windows"]

    @property
    def pieces(self) -> int:
        """How many examples are pieces of longer ones."""
        return int(np.count_nonzero(self._columns["pieces"][:, 0] >= 0))

    @property
    def kinds(self) -> dict[str, int]:
        """How many examples there are of each kind."""
        counts = np.bincount(self._columns["kind"], minlength=len(KINDS))
        return {name: int(counts[kind]) for kind, name in KINDS.items() if counts[kind]}

    def where(self, i: int) -> tuple[str, int]:
        """Annotation file and line number (from 1) of example i."""
        return self._annotations(int(self._columns["source"][i])), int(self._columns["line"][i]) + 1

    def _annotations(self, source: int) -> str:
        return source_path.resolve(self.annotations[source]["path"], self.root)

    def entry(self, i: int) -> Entry:
        """What was counted of example i."""
        times = [m.times_us for m in self._media(i)]
        return Entry(
            int(self.tokens[i]),
            int(self.targets[i]),
            int(self.windows[i]),
            np.concatenate([np.zeros(0, np.int64), *times]),
        )

    def plan(self, i: int, template: ChatTemplate, files: MediaFiles) -> ExamplePlan:
        """Example i as it was planned, from the index alone; its files are only looked at.

        Args:
            i: number of the example.
            template: of the tokenizer that the index was made with.
            files: where videos and images are.

        Raises:
            MediaError: a file is gone, or has changed since it was indexed.
            ExampleError: a provisional example takes more than was set aside for it.
        """
        if self._columns["kind"][i] == PROVISIONAL:
            return self._plan_provisional(i, template, files)
        with part("look"):
            for row in self._media_rows(i):
                path, facts, video = self._file(row)
                files.check(path, facts, video)
            media = tuple(self._media(i))
        with part("tokenise"):
            text = self._columns["text"][self._between("text_starts", i)].tobytes()
            plan = unpack(int(self._columns["kind"][i]), text, media, template)
        if (plan.tokens, plan.targets) != (self.tokens[i], self.targets[i]):
            raise DataError(f"{self.path}: example {i} is damaged, or the tokenizer is another one")
        return plan

    def _plan_provisional(self, i: int, template: ChatTemplate, files: MediaFiles) -> ExamplePlan:
        file, line = self.where(i)
        text = self._columns["text"][self._between("text_starts", i)].tobytes()
        example = self._part(i, parse(json.loads(text), folder_of(file), f"{file} line {line}"))
        plan = plan_example(example, template, self.budget, self.context, form=self.form, files=files)
        need = (plan.tokens, plan.targets, plan.windows(self.window))
        kept = (int(self.tokens[i]), int(self.targets[i]), int(self.windows[i]))
        if any(a > b for a, b in zip(need, kept)):
            raise ExampleError(
                f"{file} line {line}: takes {need[0]} tokens, {need[1]} targets and {need[2]} windows, "
                f"but was indexed without its files, with {kept[0]}, {kept[1]} and {kept[2]} set aside"
            )
        return plan

    def _between(self, starts: str, i: int) -> slice:
        return slice(int(self._columns[starts][i]), int(self._columns[starts][i + 1]))

    def _media_rows(self, i: int) -> range:
        found = self._between("media_starts", i)
        return range(found.start, found.stop)

    def _stored_path(self, file: int) -> str:
        return self._columns["path"][self._between("path_starts", file)].tobytes().decode()

    def _file(self, row: int) -> tuple[str, FileFacts, bool]:
        """Path, facts and whether it is a video, of the file of a medium."""
        c, file = self._columns, int(self._columns["media_file"][row])
        facts = FileFacts(
            int(c["file_size"][file]), int(c["file_mtime_ns"][file]), int(c["file_check"][file]),
            *c["file_shape"][file].tolist(),
        )  # fmt: skip
        frames = self._between("frame_starts", row)
        return (
            source_path.resolve(self._stored_path(file), self.root),
            facts,
            frames.stop > frames.start,
        )

    def _media(self, i: int) -> list[MediaPlan]:
        made = []
        for row in self._media_rows(i):
            path, facts, video = self._file(row)
            height, width = self._columns["media_size"][row].tolist()
            gaps = self._columns["frame_gaps_us"][self._between("frame_starts", row)]
            pts = int(self._columns["media_first_us"][row]) + np.cumsum(gaps, dtype=np.int64)
            shown, frames = np.unique(pts, return_inverse=True)
            # Of the file's frames those that are shown; decoding goes by timestamp.
            source = VideoInfo(
                path, shown, facts.frame_duration_us, facts.width, facts.height, facts.lead_us
            )
            times = pts + facts.frame_duration_us
            made.append(MediaPlan(source if video else path, frames, times, height, width))
        return made

    def example(self, i: int) -> Example:
        """Example i, read from its annotation file. Raises DataError when that has changed."""
        source = int(self._columns["source"][i])
        if source not in self._files:
            self._files[source] = open_annotations(self._annotations(source))
        return self._part(i, self._files[source][int(self._columns["line"][i])])

    def _part(self, i: int, example: Example) -> Example:
        piece = Piece(*self._columns["pieces"][i].tolist())
        if piece.start_us < 0 or not isinstance(example, StreamExample):
            return example
        return cut(example, piece)
