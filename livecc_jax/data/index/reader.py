"""Reads an index from disk: columns are memory-mapped, so one of millions of examples opens at once."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.annotations.datasets import Annotations, open_annotations
from livecc_jax.data.examples.encode import EncodedExample, encode_example
from livecc_jax.data.examples.media_files import FileIdentity, MediaFiles
from livecc_jax.data.examples.split import ExampleSlice, slice_example
from livecc_jax.data.files.paths import folder_of, is_remote, resolve
from livecc_jax.data.files.timing import timed_section
from livecc_jax.data.index import codec
from livecc_jax.data.index.columns import CONVERSATION, PROVISIONAL, STREAM, open_columns
from livecc_jax.errors import DataError, ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Example, StreamExample

FORMAT, VERSION = "livecc-index", 2
KIND_NAMES = {STREAM: "streaming", CONVERSATION: "conversations", PROVISIONAL: "provisional"}


@dataclass(frozen=True)
class IndexRecord:
    """Sizes of one example, as the index counted them.

    Attributes:
        tokens: Number of tokens.
        targets: Number of supervised tokens.
        windows: Number of vision windows.
        frame_times_us: int64 [F], times of the frames of all its videos, in microseconds.
    """

    tokens: int
    targets: int
    windows: int
    frame_times_us: np.ndarray


class Index:
    """An index on disk.

    Args:
        path: Directory of the index.
        root: Root of relative paths. By default the root that the index stores: its place relative to
            the index if the data is found there, otherwise its absolute path.

    Raises:
        DataError: The index is missing, of another version, or a column does not fit the others.
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
        is_index = isinstance(meta, dict) and meta.get("format") == FORMAT
        if not is_index or meta.get("version") != VERSION:
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
            self._columns = open_columns(self.path, int(meta["examples"]))
            self.root = str(root or self._find_root(meta["root"], meta["root_from_index"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{meta_path}: lacks a field or holds a wrong one ({error})") from error
        self._annotation_files: dict[int, Annotations] = {}

    def _find_root(self, absolute: str, from_index: str) -> str:
        """Returns whichever of the two stored roots holds the data."""
        if not absolute or is_remote(absolute) or not from_index:
            return absolute
        relative = os.path.normpath(os.path.join(os.path.abspath(self.path), from_index))
        samples = [a["path"] for a in self.annotations]
        if len(self._columns["file_size"]):
            samples.append(self._stored_path(0))
        for root in (relative, absolute):
            if any(os.path.exists(resolve(path, root)) for path in samples if not is_remote(path)):
                return root
        return absolute

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def tokens(self) -> np.ndarray:
        """int32 [n], number of tokens of each example."""
        return self._columns["tokens"]

    @property
    def targets(self) -> np.ndarray:
        """int32 [n], number of supervised tokens of each example."""
        return self._columns["targets"]

    @property
    def windows(self) -> np.ndarray:
        """int32 [n], number of vision windows of each example."""
        return self._columns["windows"]

    @property
    def num_slices(self) -> int:
        """Number of examples that are slices of longer ones."""
        return int(np.count_nonzero(self._columns["pieces"][:, 0] >= 0))

    @property
    def kind_counts(self) -> dict[str, int]:
        """Number of examples of each kind that occurs, by its name."""
        counts = np.bincount(self._columns["kind"], minlength=len(KIND_NAMES))
        return {name: int(counts[kind]) for kind, name in KIND_NAMES.items() if counts[kind]}

    def location(self, i: int) -> tuple[str, int]:
        """Returns annotation file and line number (from 1) of example i."""
        source, line = int(self._columns["source"][i]), int(self._columns["line"][i])
        return self._annotation_path(source), line + 1

    def _annotation_path(self, source: int) -> str:
        return resolve(self.annotations[source]["path"], self.root)

    def record(self, i: int) -> IndexRecord:
        """Returns the sizes of example i."""
        times_us = [m.times_us for m in self._media(i)]
        return IndexRecord(
            int(self.tokens[i]),
            int(self.targets[i]),
            int(self.windows[i]),
            np.concatenate([np.zeros(0, np.int64), *times_us]),
        )

    def encoded_example(self, i: int, template: ChatTemplate, files: MediaFiles) -> EncodedExample:
        """Returns example i as it was encoded, from the index alone.

        Its media files are only checked for changes; annotation files are not read.

        Args:
            i: Number of the example.
            template: Chat template over the tokenizer that the index was made with.
            files: Reads videos and images.

        Raises:
            MediaError: A file is gone, or has changed since it was indexed.
            ExampleError: A provisional example needs more than was reserved for it.
        """
        if self._columns["kind"][i] == PROVISIONAL:
            return self._encode_provisional(i, template, files)
        with timed_section("check files"):
            for number in self._media_numbers(i):
                files.check_unchanged(*self._media_file(number))
            media = tuple(self._media(i))
        with timed_section("tokenize"):
            example = codec.decode(int(self._columns["kind"][i]), self._text(i), media, template)
        if (example.tokens, example.targets) != (self.tokens[i], self.targets[i]):
            raise DataError(f"{self.path}: example {i} is damaged, or the tokenizer is another one")
        return example

    def _encode_provisional(self, i: int, template: ChatTemplate, files: MediaFiles) -> EncodedExample:
        file, line = self.location(i)
        conversation = parse(json.loads(self._text(i)), folder_of(file), f"{file} line {line}")
        example = encode_example(
            self._slice(i, conversation), template, self.budget, self.context,
            form=self.form, files=files,
        )  # fmt: skip
        needed = (example.tokens, example.targets, example.windows(self.window))
        reserved = (int(self.tokens[i]), int(self.targets[i]), int(self.windows[i]))
        if any(a > b for a, b in zip(needed, reserved)):
            raise ExampleError(
                f"{file} line {line}: takes {needed[0]} tokens, {needed[1]} targets and {needed[2]} "
                f"windows, but was indexed without its files, with {reserved[0]}, {reserved[1]} and "
                f"{reserved[2]} set aside"
            )
        return example

    def _range(self, starts: str, i: int) -> slice:
        """Returns the range of record i in the column that the column `starts` delimits."""
        return slice(int(self._columns[starts][i]), int(self._columns[starts][i + 1]))

    def _text(self, i: int) -> bytes:
        return self._columns["text"][self._range("text_starts", i)].tobytes()

    def _stored_path(self, file: int) -> str:
        return self._columns["path"][self._range("path_starts", file)].tobytes().decode()

    def _media_numbers(self, i: int) -> range:
        """Returns the numbers of the media slices of example i."""
        numbers = self._range("media_starts", i)
        return range(numbers.start, numbers.stop)

    def _media_file(self, number: int) -> tuple[str, FileIdentity, bool]:
        """Returns the file of a media slice: its path, its identity, and whether it is a video."""
        c, file = self._columns, int(self._columns["media_file"][number])
        identity = FileIdentity(
            int(c["file_size"][file]), int(c["file_mtime_ns"][file]), int(c["file_check"][file]),
            *c["file_shape"][file].tolist(),
        )  # fmt: skip
        frames = self._range("frame_starts", number)
        return resolve(self._stored_path(file), self.root), identity, frames.stop > frames.start

    def _media(self, i: int) -> list[MediaSlice]:
        media = []
        for number in self._media_numbers(i):
            path, identity, is_video = self._media_file(number)
            height, width = self._columns["media_size"][number].tolist()
            gaps_us = self._columns["frame_gaps_us"][self._range("frame_starts", number)]
            first_us = int(self._columns["media_first_us"][number])
            pts_us = first_us + np.cumsum(gaps_us, dtype=np.int64)
            # The index knows only the frames that are shown; they are decoded by timestamp.
            shown_pts_us, indices = np.unique(pts_us, return_inverse=True)
            video = VideoInfo(
                path, shown_pts_us, identity.frame_duration_us, identity.width, identity.height,
                identity.lead_us,
            )  # fmt: skip
            times_us = pts_us + identity.frame_duration_us
            media.append(MediaSlice(video if is_video else path, indices, times_us, height, width))
        return media

    def example(self, i: int) -> Example:
        """Reads example i from its annotation file. Raises DataError when the file has changed."""
        source = int(self._columns["source"][i])
        if source not in self._annotation_files:
            self._annotation_files[source] = open_annotations(self._annotation_path(source))
        return self._slice(i, self._annotation_files[source][int(self._columns["line"][i])])

    def _slice(self, i: int, example: Example) -> Example:
        """Returns the slice of a parsed line that is example i."""
        part = ExampleSlice(*self._columns["pieces"][i].tolist())
        if part.start_us < 0 or not isinstance(example, StreamExample):
            return example
        return slice_example(example, part)
