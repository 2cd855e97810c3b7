"""Reads an index from disk: columns are memory-mapped, so one of millions of examples opens at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.bounded_json import JsonError, parse_json
from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.annotations.datasets import Annotations, open_annotations
from livecc_jax.data.examples.encode import EncodedExample, encode_example
from livecc_jax.data.examples.media_files import FileIdentity, MediaFiles
from livecc_jax.data.examples.split import ExampleSlice, slice_example
from livecc_jax.data.files.paths import absolute_path, folder_of, is_remote, resolve
from livecc_jax.data.files.timing import timed_section
from livecc_jax.data.index import codec
from livecc_jax.data.index.column_reader import ColumnReader
from livecc_jax.data.index.columns import CONVERSATION, PROVISIONAL, STREAM
from livecc_jax.data.index.meta import META, family_of, read_meta
from livecc_jax.errors import DataError, ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.rules import MediaRules
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Example, StreamExample

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
        DataError: The index is missing, of another version, or damaged. What is damaged in the text or
            the frames of one example is found when that example is used.
    """

    def __init__(self, path: str | Path, root: str | None = None) -> None:
        self.path = Path(path)
        meta = read_meta(self.path)
        self.family = family_of(meta)
        self.budget = PixelBudget.parse(meta["pixel_budget"], self.family.patches.size)
        self.context: bool = meta["context"]
        self.form: str = meta["form"]
        self.silent_tail: int = meta.get("silent_tail", 0)
        self.rules = MediaRules.from_json(meta.get("media_rules"), str(self.path / META))
        self.tokenizer: str = meta["tokenizer"]
        self.window: int = meta["window"]
        self.digest: str = meta["digest"]
        # An index of an earlier version holds no words that were put in order: it rejected such clips.
        self.reordered: dict[str, int] = meta.get("reordered", {"words": 0, "conversations": 0})
        self.rejected: dict[str, int] = meta["rejected"]
        self.reasons: dict[str, int] = meta["reasons"]
        self.annotations: list[dict] = meta["annotations"]
        self._columns = ColumnReader(self.path, meta)
        if root:
            self.root = str(root) if is_remote(str(root)) else absolute_path(str(root))
        else:
            self.root = str(self._find_root(meta["root"], meta["root_from_index"]))
        self._annotation_files: dict[int, Annotations] = {}

    def _find_root(self, absolute: str, from_index: str) -> str:
        """Returns whichever of the two stored roots holds the data."""
        if not absolute or is_remote(absolute) or not from_index:
            return absolute
        relative = os.path.normpath(os.path.join(absolute_path(str(self.path)), from_index))
        samples = [a["path"] for a in self.annotations]
        if self._columns.length("file_size"):
            samples.append(self._stored_path(0))
        for root in (relative, absolute):
            if any(os.path.exists(resolve(path, root)) for path in samples if not is_remote(path)):
                return root
        return absolute

    def __len__(self) -> int:
        return self._columns.length("tokens")

    @property
    def tokens(self) -> np.ndarray:
        """int32 [n], number of tokens of each example."""
        return self._columns.whole("tokens")

    @property
    def targets(self) -> np.ndarray:
        """int32 [n], number of supervised tokens of each example."""
        return self._columns.whole("targets")

    @property
    def windows(self) -> np.ndarray:
        """int32 [n], number of vision windows of each example."""
        return self._columns.whole("windows")

    @property
    def num_slices(self) -> int:
        """Number of examples that are slices of longer ones."""
        return int(np.count_nonzero(self._columns.whole("pieces")[:, 0] >= 0))

    @property
    def kind_counts(self) -> dict[str, int]:
        """Number of examples of each kind that occurs, by its name."""
        counts = np.bincount(self._columns.whole("kind"), minlength=len(KIND_NAMES))
        return {name: int(counts[kind]) for kind, name in KIND_NAMES.items() if counts[kind]}

    def location(self, i: int) -> tuple[str, int]:
        """Returns annotation file and line number (from 1) of example i."""
        source, line = (int(self._columns.record(name, i)) for name in ("source", "line"))
        return self._annotation_path(source), line + 1

    @property
    def annotation_paths(self) -> list[str]:
        """Paths of the annotation files and datasets that the index was made from."""
        return [self._annotation_path(source) for source in range(len(self.annotations))]

    def _annotation_path(self, source: int) -> str:
        return resolve(self.annotations[source]["path"], self.root)

    def record(self, i: int) -> IndexRecord:
        """Returns the sizes of example i."""
        times_us = [m.times_us for m in self._media(i)]
        return IndexRecord(
            *self._sizes(i),
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
        kind = int(self._columns.record("kind", i))
        if kind == PROVISIONAL:
            return self._encode_provisional(i, template, files)
        files = files.with_rules(self.rules)
        with timed_section("check files"):
            for number in self._media_numbers(i):
                files.check_unchanged(*self._media_file(number))
            media = tuple(self._media(i))
        with timed_section("tokenize"):
            example = codec.decode(kind, self._text(i), media, template)
        if (example.tokens, example.targets, example.windows(self.window)) != self._sizes(i):
            raise DataError(f"{self.path}: example {i} is damaged, or the tokenizer is another one")
        return example

    def _encode_provisional(self, i: int, template: ChatTemplate, files: MediaFiles) -> EncodedExample:
        file, line = self.location(i)
        try:
            raw = parse_json(self._text(i), half_characters=True)
        except JsonError as error:
            raise DataError(f"{self.path}: the text of example {i} is damaged ({error})") from error
        conversation = parse(raw, folder_of(file), f"{file} line {line}")
        example = encode_example(
            self._slice(i, conversation), template, self.budget, self.context,
            form=self.form, files=files.with_rules(self.rules), silent_tail=self.silent_tail,
        )  # fmt: skip
        needed = (example.tokens, example.targets, example.windows(self.window))
        reserved = self._sizes(i)
        if any(a > b for a, b in zip(needed, reserved)):
            raise ExampleError(
                f"{file} line {line}: takes {needed[0]} tokens, {needed[1]} targets and {needed[2]} "
                f"windows, but was indexed without its files, with {reserved[0]}, {reserved[1]} and "
                f"{reserved[2]} set aside"
            )
        return example

    def _sizes(self, i: int) -> tuple[int, int, int]:
        """Returns numbers of tokens, targets and windows of example i."""
        tokens, targets, windows = (
            int(self._columns.record(name, i)) for name in ("tokens", "targets", "windows")
        )
        return tokens, targets, windows

    def _text(self, i: int) -> bytes:
        return self._columns.ragged("text", "text_starts", i).tobytes()

    def _stored_path(self, file: int) -> str:
        path = self._columns.ragged("path", "path_starts", file).tobytes()
        try:
            return path.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path / 'path.npy'}: record {file} is not UTF-8 text") from error

    def _media_numbers(self, i: int) -> range:
        """Returns the numbers of the media slices of example i."""
        return range(*self._columns.bounds("media_starts", i))

    def _media_file(self, number: int) -> tuple[str, FileIdentity, bool]:
        """Returns the file of a media slice: its path, its identity, and whether it is a video."""
        c = self._columns
        file = int(c.record("media_file", number))
        size, mtime_ns, check = (
            int(c.record(name, file)) for name in ("file_size", "file_mtime_ns", "file_check")
        )
        identity = FileIdentity(size, mtime_ns, check, *c.record("file_shape", file).tolist())
        first, stop = c.bounds("frame_starts", number)
        return resolve(self._stored_path(file), self.root), identity, stop > first

    def _media(self, i: int) -> list[MediaSlice]:
        media = []
        for number in self._media_numbers(i):
            path, identity, is_video = self._media_file(number)
            height, width = self._columns.record("media_size", number).tolist()
            gaps_us = self._columns.ragged("frame_gaps_us", "frame_starts", number)
            first_us = int(self._columns.record("media_first_us", number))
            pts_us = first_us + np.cumsum(gaps_us, dtype=np.int64)
            # The index knows only the frames that are shown; they are decoded by timestamp.
            shown_pts_us, indices = np.unique(pts_us, return_inverse=True)
            video = VideoInfo(
                path, shown_pts_us, identity.frame_duration_us, identity.width, identity.height,
                identity.lead_us, self.rules,
            )  # fmt: skip
            times_us = pts_us + identity.frame_duration_us
            shown = video if is_video else path
            patch = self.budget.patch
            media.append(MediaSlice(shown, indices, times_us, height, width, patch))
        return media

    def example(self, i: int) -> Example:
        """Reads example i from its annotation file. Raises DataError when the file has changed."""
        source = int(self._columns.record("source", i))
        if source not in self._annotation_files:
            self._annotation_files[source] = open_annotations(self._annotation_path(source))
        return self._slice(i, self._annotation_files[source][int(self._columns.record("line", i))])

    def _slice(self, i: int, example: Example) -> Example:
        """Returns the slice of a parsed line that is example i."""
        part = ExampleSlice(*self._columns.record("pieces", i).tolist())
        if part.start_us < 0 or not isinstance(example, StreamExample):
            return example
        return slice_example(example, part)
