"""Reads tensorflow-datasets datasets (ArrayRecord files) in place of annotation files.

TensorFlow itself is not needed. A record holds a conversation as JSON, the same as typed fields, and
optionally the sampled and resized frames of a streaming clip as JPEG. `examples/tfds_builder.py` writes
such datasets.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.bounded_json import parse_json
from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.annotations.dataset_features import check_features
from livecc_jax.data.annotations.records import MAX_LINE_BYTES, AnnotationFile
from livecc_jax.data.files.paths import is_remote
from livecc_jax.errors import DataError, ExampleError, MediaError
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.example import Example

INFO = "dataset_info.json"
# The path of a clip whose frames are stored in a record.
RECORD_PATH = re.compile(r"(?P<folder>.*)/#(?P<split>\w+):(?P<record>\d+)")


def find_dataset(path: str) -> str | None:
    """Returns the folder of a dataset when `path` is one or contains exactly one, else None."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    if (folder / INFO).is_file():
        return str(folder.absolute())
    info_files = list(folder.glob(f"*/*/{INFO}"))
    return str(info_files[0].parent.absolute()) if len(info_files) == 1 else None


def open_split(folder: str, split: str) -> Any:
    """Opens the records of a split for access by number; JPEGs are not decoded.

    Raises:
        DataError: The folder is not a dataset that can be read.
    """
    try:
        version = os.stat(Path(folder, INFO)).st_mtime_ns
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a dataset ({error.strerror})") from error
    return _open_split(folder, split, version)


@functools.lru_cache(maxsize=32)
def _open_split(folder: str, split: str, version: int) -> Any:
    """Opens a split once for each version of the dataset, so that a rewritten one is opened again."""
    import tensorflow_datasets as tfds

    check_features(folder)

    class StoredJpeg(tfds.decode.SkipDecoding):
        def decode_batch_example_np(self, example: Any) -> Any:
            return example

    try:
        builder = tfds.builder_from_directory(folder)
        return builder.as_data_source(split=split, decoders={"frames": StoredJpeg()})
    except Exception as error:  # tfds passes on errors of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder}: cannot be read as a dataset ({reason})") from error


class DatasetAnnotations:
    """Random access to the conversations of a dataset, with the interface of `AnnotationFile`.

    Raises:
        DataError: The dataset cannot be read.
    """

    def __init__(self, path: str) -> None:
        folder = find_dataset(path)
        if folder is None:
            raise DataError(f"{path}: is a directory but not a dataset")
        self.path = self.folder = folder
        self._splits: list[tuple[str, int]] = []
        check_features(folder)
        import tensorflow_datasets as tfds

        try:
            splits = tfds.builder_from_directory(folder).info.splits
            self._splits = [(name, info.num_examples) for name, info in splits.items()]
        except Exception as error:  # see open_split
            raise DataError(f"{folder}: cannot be read as a dataset ({error!r:.200})") from error
        self.size = os.stat(Path(folder, INFO)).st_size
        self.end = sum(n for _, n in self._splits)
        self.offsets = np.arange(self.end)

    def __len__(self) -> int:
        return self.end

    def __getitem__(self, i: int) -> Example:
        return self.parse(i, next(self.raw_conversations(i, i + 1)))

    def parse(self, i: int, raw: Any) -> Example:
        """Parses the JSON value of conversation i; see `AnnotationFile.parse`."""
        if isinstance(raw, ExampleError):
            raise raw
        return parse(raw, self.folder, f"{self.path} line {i + 1}")

    def raw_conversations(self, first: int, stop: int) -> Iterator[Any]:
        """Yields the JSON values of conversations first, ..., stop - 1.

        A clip whose frames are stored gets the path of its record (RECORD_PATH). In place of a record
        that is damaged, its ExampleError is yielded.
        """
        for i in range(first, stop):
            split, number = self._split_and_record(i)
            records = open_split(self.folder, split)
            try:
                record = records[number]
                raw = parse_json(record["conversation"], max_bytes=MAX_LINE_BYTES, half_characters=True)
                if len(record["frames"]):
                    for item in raw[0]["content"]:
                        if item.get("type") == "video":
                            item["video"] = f"{self.folder}/#{split}:{number}"
            except Exception as error:  # a damaged record, or one of another builder
                raw = ExampleError(
                    f"{self.path} line {i + 1}: record {number} of {split} is not readable as a "
                    f"conversation ({error!a:.120})"
                )
            yield raw

    def _split_and_record(self, i: int) -> tuple[str, int]:
        if i < 0:
            raise DataError(f"{self.path}: there is no example {i}")
        for split, size in self._splits:
            if i < size:
                return split, i
            i -= size
        raise DataError(f"{self.path}: there is no such example, only 0 to {len(self) - 1}")


Annotations = AnnotationFile | DatasetAnnotations


def open_annotations(path: str, lines: tuple[np.ndarray, int] | None = None) -> Annotations:
    """Opens an annotation file or a dataset.

    Args:
        path: Path of a JSONL file, local or remote, or of the folder of a dataset.
        lines: Line offsets and end of the file, if they are known; see `AnnotationFile`.

    Raises:
        DataError: The path is neither.
    """
    if not is_remote(path) and os.path.isdir(path):
        return DatasetAnnotations(path)
    return AnnotationFile(path, lines)


def _record(path: str) -> dict[str, Any]:
    match = RECORD_PATH.fullmatch(path)
    assert match
    source = open_split(match["folder"], match["split"])
    try:
        return source[int(match["record"])]
    except Exception as error:  # ArrayRecord raises errors of any kind
        raise MediaError(f"{path}: the record cannot be read ({error!r:.120})") from error


def dataset_video_info(path: str) -> VideoInfo:
    """Returns timestamps and size of the frames stored in a record.

    Raises:
        MediaError: The record cannot be read.
    """
    record = _record(path)
    times = np.array(record["frame_times_us"], np.int64)
    gap = int(record["frame_duration_us"])
    return VideoInfo(path, times - gap, gap, int(record["width"]), int(record["height"]))


def dataset_frames(info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Yields frames stored in a record.

    Args:
        info: From `dataset_video_info`, possibly with fewer frames.
        indices: Numbers of frames among those of `info`, ascending; they may repeat.

    Yields:
        uint8 [H, W, 3] RGB for each index.

    Raises:
        MediaError: The record or a frame cannot be read.
    """
    import cv2

    record = _record(info.path)
    times = np.array(record["frame_times_us"], np.int64) - info.frame_duration_us
    numbers = np.searchsorted(times, info.pts_us[np.asarray(indices)])
    decoded, frame = -1, None
    for number in numbers.tolist():
        if number != decoded:
            data = np.frombuffer(record["frames"][number], np.uint8) if number < len(times) else None
            frame = None if data is None else cv2.imdecode(data, cv2.IMREAD_COLOR)
            if frame is None:
                raise MediaError(f"{info.path}: frame {number} cannot be decoded")
            decoded, frame = number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        yield frame
