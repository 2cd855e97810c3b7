"""A prepared corpus as a standard dataset: ArrayRecord files that tensorflow-datasets writes and reads.

TensorFlow is needed for neither. A record holds the conversation of an annotation file, the same as
typed fields, and where wanted a streaming clip's sampled, resized frames as JPEG.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.files.remote import is_remote
from livecc_jax.errors import DataError, MediaError
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.example import Example

log = logging.getLogger(__name__)

INFO = "dataset_info.json"
# A clip whose frames are stored is named by its record.
REFERENCE = re.compile(r"(?P<folder>.*)/#(?P<split>\w+):(?P<record>\d+)")


def find_dataset(path: str) -> str | None:
    """The folder of a dataset, when `path` is one or holds just one; None when it is something else."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    if (folder / INFO).is_file():
        return str(folder.absolute())
    found = list(folder.glob(f"*/*/{INFO}"))
    return str(found[0].parent.absolute()) if len(found) == 1 else None


@functools.lru_cache(maxsize=32)
def open_source(folder: str, split: str) -> Any:
    """A split's records, by number; JPEGs stay as they are stored.

    Raises DataError when it is no dataset that can be read.
    """
    import tensorflow_datasets as tfds

    class Kept(tfds.decode.SkipDecoding):
        def decode_batch_example_np(self, example: Any) -> Any:
            return example

    try:
        builder = tfds.builder_from_directory(folder)
        return builder.as_data_source(split=split, decoders={"frames": Kept()})
    except Exception as error:  # tfds raises whatever its parts do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder}: cannot be read as a dataset ({reason})") from error


class DatasetAnnotations:
    """The conversations of a dataset, as `AnnotationFile` has those of a file.

    Raises DataError when the dataset cannot be read.
    """

    def __init__(self, path: str) -> None:
        folder = find_dataset(path)
        if folder is None:
            raise DataError(f"{path}: is a directory and no dataset")
        self.path = self.folder = folder
        self._splits: list[tuple[str, int]] = []
        import tensorflow_datasets as tfds

        try:
            splits = tfds.builder_from_directory(folder).info.splits
            self._splits = [(name, info.num_examples) for name, info in splits.items()]
        except Exception as error:  # see open_source
            raise DataError(f"{folder}: cannot be read as a dataset ({error!r:.200})") from error
        self.size = os.stat(Path(folder, INFO)).st_size
        self.end = sum(n for _, n in self._splits)
        self.offsets = np.arange(self.end)

    def __len__(self) -> int:
        return self.end

    def __getitem__(self, i: int) -> Example:
        return self.parse(i, next(self.raws(i, i + 1)))

    def parse(self, i: int, raw: Any) -> Example:
        """What JSON has of conversation i, parsed."""
        return parse(raw, self.folder, f"{self.path} line {i + 1}")

    def raws(self, first: int, stop: int) -> Iterator[Any]:
        """Conversations first, ..., stop - 1 as JSON has them; clips with frames name their record."""
        for i in range(first, stop):
            split, number = self._place(i)
            try:
                record = open_source(self.folder, split)[number]
                raw = json.loads(record["conversation"])
                if len(record["frames"]):
                    for item in raw[0]["content"]:
                        if item.get("type") == "video":
                            item["video"] = f"{self.folder}/#{split}:{number}"
            except DataError:
                raise
            except Exception as error:  # a damaged record, or of another builder
                raise DataError(
                    f"{self.path}: record {number} of {split} is not readable as a conversation "
                    f"({error!r:.120})"
                ) from error
            yield raw

    def _place(self, i: int) -> tuple[str, int]:
        if i < 0:
            raise DataError(f"{self.path}: there is no example {i}")
        for split, size in self._splits:
            if i < size:
                return split, i
            i -= size
        raise DataError(f"{self.path}: there is no such example, only 0 to {len(self) - 1}")


Annotations = AnnotationFile | DatasetAnnotations


def open_annotations(path: str, lines: tuple[np.ndarray, int] | None = None) -> Annotations:
    """An annotation file, or a dataset. Raises DataError when it is neither."""
    if not is_remote(path) and os.path.isdir(path):
        return DatasetAnnotations(path)
    return AnnotationFile(path, lines)


def _record(path: str) -> dict[str, Any]:
    found = REFERENCE.fullmatch(path)
    assert found
    source = open_source(found["folder"], found["split"])
    try:
        return source[int(found["record"])]
    except Exception as error:  # ArrayRecord raises whatever it meets
        raise MediaError(f"{path}: the record cannot be read ({error!r:.120})") from error


def stored_info(path: str) -> VideoInfo:
    """Timestamps and size of stored frames. Raises MediaError."""
    record = _record(path)
    times = np.array(record["frame_times_us"], np.int64)
    gap = int(record["frame_duration_us"])
    return VideoInfo(path, times - gap, gap, int(record["width"]), int(record["height"]))


def stored_frames(info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Stored frames by number among `info`'s, each uint8 [H, W, 3] RGB. Raises MediaError."""
    import cv2

    record = _record(info.path)
    times = np.array(record["frame_times_us"], np.int64) - info.frame_duration_us
    places = np.searchsorted(times, info.pts_us[np.asarray(indices)])
    at, picture = -1, None
    for place in places.tolist():
        if place != at:
            data = np.frombuffer(record["frames"][place], np.uint8) if place < len(times) else None
            picture = None if data is None else cv2.imdecode(data, cv2.IMREAD_COLOR)
            if picture is None:
                raise MediaError(f"{info.path}: frame {place} cannot be decoded")
            at, picture = place, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        yield picture
