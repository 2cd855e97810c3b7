"""The tensorflow-datasets builder: writes annotation files as a dataset, optionally with frames.

`annotations/datasets.py` reads such datasets.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.annotations.rejections import with_location
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.media_slice import frame_size
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.paths import absolute_path, is_remote, join
from livecc_jax.errors import DataError, ExampleError, LiveCCError, MediaError, OutputError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.gaps import sample_moments
from livecc_jax.media.pixels import resize
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.timeline.example import Example, StreamExample, VideoClip, media_paths
from livecc_jax.writing import DISK_FULL

log = logging.getLogger(__name__)

BATCH = 32  # conversations prepared together
UNSPECIFIED = -1  # start or end of a clip that its annotation does not give


@dataclass(frozen=True)
class StoredFrameOptions:
    """How frames are stored.

    Attributes:
        budget: Pixel budget of a frame, which sets the frames' size.
        quality: Quality of the JPEG compression, 1 to 100.
        rules: How videos are read.
    """

    budget: PixelBudget
    quality: int = 90
    rules: MediaRules = DEFAULT


class StreamingClips(tfds.core.GeneratorBasedBuilder):
    """Clips with timed speech, and conversations about pictures.

    Args:
        annotations: Paths of JSONL files.
        split: Name of the split to write.
        frames: How the sampled frames of streaming clips are stored; None stores no frames.
        on_progress: Called with the number of conversations done and of all conversations.
        on_rejected: Called with file, line (from 1) and error of each conversation that is left out.
        media_root: Confines what conversations may point to; others are left out.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # otherwise tfds looks for checksums of downloads beside this file

    def __init__(
        self,
        annotations: Sequence[str | Path] = (),
        split: str = "train",
        frames: StoredFrameOptions | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        on_rejected: Callable[[str, int, LiveCCError], None] | None = None,
        media_root: MediaRoot | None = None,
        **kwargs: Any,
    ) -> None:
        self._annotations = [str(path) for path in annotations]
        self._split, self._frames, self._media_root = split, frames, media_root
        self._on_progress, self._on_rejected = on_progress, on_rejected
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        picture = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        text, integer = tfds.features.Text(), tfds.features.Scalar(np.int64)
        features = {
            "conversation": text,  # JSON, as in an annotation file; paths relative to the dataset
            "video": text,
            "start_us": integer,  # span of the clip in the file; -1 when unspecified
            "end_us": integer,
            "query": text,
            "title": text,
            "previous": text,
            "category": text,
            "words": tfds.features.Sequence({"text": text, "start_us": integer, "end_us": integer}),
            # All sampled frames of a clip; empty when frames are not stored.
            "frames": tfds.features.Sequence(picture),
            "frame_times_us": tfds.features.Sequence(np.int64),
            "frame_duration_us": integer,
            "height": integer,
            "width": integer,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips with timed speech (LiveCC, arXiv 2504.16030), and conversations.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # keeps the order of the annotations; packing shuffles
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        files = [AnnotationFile(path) for path in self._annotations]
        total, done, key, last = sum(map(len, files)), 0, 0, ""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for file in files:
                for first in range(0, len(file), BATCH):
                    lines = range(first, min(first + BATCH, len(file)))
                    values = file.raw_conversations(lines.start, lines.stop)
                    results = pool.map(self._record_or_error, [file] * BATCH, lines, values)
                    for line, result in zip(lines, results):
                        if isinstance(result, LiveCCError):
                            last = with_location(file.path, line + 1, str(result))
                            log.info("left out %s", last)
                            if self._on_rejected:
                                self._on_rejected(file.path, line + 1, result)
                        else:
                            yield key, result
                            key += 1
                    done += len(lines)
                    if self._on_progress:
                        self._on_progress(done, total)
        if not key:
            raise DataError(
                f"{', '.join(self._annotations)}: no conversation is usable; the last one: {last}"
            )

    def _record_or_error(
        self, file: AnnotationFile, line: int, value: Any
    ) -> dict[str, Any] | LiveCCError:
        try:
            return self._record(file, file.parse(line, value), value)
        except (ExampleError, MediaError) as error:
            return error

    def _record(self, file: AnnotationFile, example: Example, value: Any) -> dict[str, Any]:
        if self._media_root is not None:
            for path in media_paths(example):
                self._media_root.check(path)
        streaming = isinstance(example, StreamExample)
        clip = example.clip if streaming else VideoClip("")
        record = {
            "conversation": json.dumps(
                self._with_relative_paths(value, file.folder), ensure_ascii=False
            ),
            "video": self._relative_path(clip.path) if streaming else "",
            "start_us": UNSPECIFIED if clip.start_us is None else clip.start_us,
            "end_us": UNSPECIFIED if clip.end_us is None else clip.end_us,
            "words": [
                {"text": w.text, "start_us": w.start_us, "end_us": w.end_us}
                for w in (example.words if streaming else ())
            ],
        }
        for name in ("query", "title", "previous", "category"):
            record[name] = getattr(example, name) if streaming else ""
        if self._frames and streaming:
            return record | self._encode_frames(clip, self._frames)
        return record | NO_FRAMES

    def _with_relative_paths(self, value: Any, folder: str) -> Any:
        """Returns the conversation with paths relative to the dataset, not the annotation file."""
        turns = copy.deepcopy(value)
        for turn in turns:
            for item in turn["content"] if isinstance(turn["content"], list) else ():
                for key in ("video", "image"):
                    if item.get("type") == key and not is_remote(item[key]):
                        item[key] = self._relative_path(
                            join(folder, item[key]), os.path.isabs(item[key])
                        )
        return turns

    def _relative_path(self, path: str, absolute: bool = False) -> str:
        if is_remote(path) or is_remote(str(self.data_dir)) or absolute:
            return path
        # The file system looks for `..` from where a link to the dataset leads.
        return os.path.relpath(absolute_path(path), os.path.realpath(self.data_dir))

    def _encode_frames(self, clip: VideoClip, options: StoredFrameOptions) -> dict[str, Any]:
        import cv2

        files = MediaFiles(rules=options.rules, media_root=self._media_root)
        info = files.video_info(clip)
        indices = sample_moments(info, clip.start_us, clip.end_us).indices
        height, width = frame_size(clip.path, info.height, info.width, len(indices), options.budget)
        jpeg = [cv2.IMWRITE_JPEG_QUALITY, options.quality]
        resized = (resize(f[None], (height, width))[0] for f in files.frames(info, indices))
        return {
            "frames": [cv2.imencode(".jpg", f[..., ::-1], jpeg)[1].tobytes() for f in resized],
            "frame_times_us": info.frame_times_us[indices],
            "frame_duration_us": info.frame_duration_us,
            "height": height,
            "width": width,
        }


NO_FRAMES = {
    "frames": [],
    "frame_times_us": [],
    "frame_duration_us": 0,
    "height": 0,
    "width": 0,
}


def write_dataset(
    annotations: Sequence[str | Path],
    out: str | Path,
    *,
    split: str = "train",
    frames: StoredFrameOptions | None = None,
    media_root: MediaRoot | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, list[tuple[str, int, LiveCCError]]]:
    """Writes annotation files as a dataset, which appears complete or not at all.

    Args:
        annotations: Paths of JSONL files.
        out: Data directory of tensorflow-datasets; the dataset is <out>/streaming_clips/1.0.0.
        split: Name of the split.
        frames: How the sampled frames of streaming clips are stored; None stores no frames.
        media_root: Confines what conversations may point to; others are left out.
        on_progress: Called with the number of conversations done and of all conversations.

    Returns:
        The folder of the dataset, and (file, line, error) of each conversation that was left out.

    Raises:
        DataError: The dataset exists already, or no conversation is usable.
        OutputError: The disk is full.
    """
    tfds.disable_progress_bar()
    rejected: list[tuple[str, int, LiveCCError]] = []
    builder = StreamingClips(
        annotations,
        split,
        frames,
        on_progress,
        lambda *rejection: rejected.append(rejection),
        media_root,
        data_dir=str(out),
        file_format="array_record",
    )
    folder = Path(builder.data_dir)
    if folder.exists():
        raise DataError(f"{folder}: exists already")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports downloads; there are none
            builder.download_and_prepare()
    except (OSError, RuntimeError) as error:  # the ArrayRecord writer raises RuntimeError
        reason = next((os.strerror(n) for n in DISK_FULL if os.strerror(n) in str(error)), None)
        if reason is None:
            raise
        raise OutputError(f"{folder}: cannot be written: {reason}") from error
    return folder, rejected
