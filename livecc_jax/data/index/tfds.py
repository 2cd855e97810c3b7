"""The tensorflow-datasets builder of streaming-speech clips, and JSON lines made into a dataset."""

from __future__ import annotations

import contextlib
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
from livecc_jax.data.examples.example import frame_size
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.files.remote import is_remote, join
from livecc_jax.data.index.shards import located
from livecc_jax.errors import DataError, ExampleError, LiveCCError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import resize
from livecc_jax.media.sampling import sample_strict
from livecc_jax.timeline.example import Clip, Example, StreamExample

log = logging.getLogger(__name__)

AHEAD = 32  # conversations prepared at once
NOT_GIVEN = -1  # for a clip's start or end


@dataclass(frozen=True)
class FrameOptions:
    """Frames to store: sized by `budget`, as JPEG of `quality` (1 to 100)."""

    budget: PixelBudget
    quality: int = 90


class StreamingClips(tfds.core.GeneratorBasedBuilder):
    """Clips with timed speech, and conversations about pictures.

    Args:
        annotations: JSONL files.
        split: name of the split to make.
        frames: store the sampled frames of streaming clips; None stores none.
        progress: called with (conversations done, in all).
        rejected: called with (file, line from 1, error) for each conversation that is left out.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # tfds would look for checksums of downloads beside this file; there are none

    def __init__(
        self,
        annotations: Sequence[str | Path] = (),
        split: str = "train",
        frames: FrameOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
        rejected: Callable[[str, int, LiveCCError], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self._annotations = [str(path) for path in annotations]
        self._split, self._frames = split, frames
        self._progress, self._rejected = progress, rejected
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        picture = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        text, whole = tfds.features.Text(), tfds.features.Scalar(np.int64)
        features = {
            "conversation": text,  # JSON, as in an annotation file; paths relative to the dataset
            "video": text,
            "start_us": whole,  # of the clip in the file; -1: not given
            "end_us": whole,
            "query": text,
            "title": text,
            "previous": text,
            "category": text,
            "words": tfds.features.Sequence({"text": text, "start_us": whole, "end_us": whole}),
            # All that were sampled of a clip; empty where they are not stored.
            "frames": tfds.features.Sequence(picture),
            "frame_times_us": tfds.features.Sequence(np.int64),
            "frame_duration_us": whole,
            "height": whole,
            "width": whole,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips with timed speech (LiveCC, arXiv 2504.16030), and conversations.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # in the order of the annotations; packing shuffles
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        files = [AnnotationFile(path) for path in self._annotations]
        total, done, key, why = sum(map(len, files)), 0, 0, ""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for file in files:
                for first in range(0, len(file), AHEAD):
                    lines = range(first, min(first + AHEAD, len(file)))
                    raws = file.raws(lines.start, lines.stop)
                    for line, made in zip(lines, pool.map(self._attempt, [file] * AHEAD, lines, raws)):
                        if isinstance(made, LiveCCError):
                            why = located(file.path, line + 1, str(made))
                            log.info("left out %s", why)
                            if self._rejected:
                                self._rejected(file.path, line + 1, made)
                        else:
                            yield key, made
                            key += 1
                    done += len(lines)
                    if self._progress:
                        self._progress(done, total)
        if not key:
            raise DataError(
                f"{', '.join(self._annotations)}: no conversation is usable; the last one: {why}"
            )

    def _attempt(self, file: AnnotationFile, line: int, raw: Any) -> dict[str, Any] | LiveCCError:
        try:
            return self._record(file, file.parse(line, raw), raw)
        except (ExampleError, MediaError) as error:
            return error

    def _record(self, file: AnnotationFile, example: Example, raw: Any) -> dict[str, Any]:
        streaming = isinstance(example, StreamExample)
        clip = example.clip if streaming else Clip("")
        record = {
            "conversation": json.dumps(self._relative(raw, file.folder), ensure_ascii=False),
            "video": self._path(clip.path) if streaming else "",
            "start_us": NOT_GIVEN if clip.start_us is None else clip.start_us,
            "end_us": NOT_GIVEN if clip.end_us is None else clip.end_us,
            "words": [
                {"text": w.text, "start_us": w.start_us, "end_us": w.end_us}
                for w in (example.words if streaming else ())
            ],
        }
        for name in ("query", "title", "previous", "category"):
            record[name] = getattr(example, name) if streaming else ""
        if self._frames and streaming:
            return record | self._pictures(clip, self._frames)
        return record | NO_PICTURES

    def _relative(self, raw: Any, folder: str) -> Any:
        """The conversation with its paths relative to the dataset instead of the annotation file."""
        turns = json.loads(json.dumps(raw))
        for turn in turns:
            for item in turn["content"] if isinstance(turn["content"], list) else ():
                for key in ("video", "image"):
                    if item.get("type") == key and not is_remote(item[key]):
                        item[key] = self._path(join(folder, item[key]), os.path.isabs(item[key]))
        return turns

    def _path(self, path: str, absolute: bool = False) -> str:
        if is_remote(path) or is_remote(str(self.data_dir)) or absolute:
            return path
        return os.path.relpath(os.path.abspath(path), os.path.abspath(self.data_dir))

    def _pictures(self, clip: Clip, how: FrameOptions) -> dict[str, Any]:
        import cv2

        files = MediaFiles()
        info = files.video(clip)
        indices = sample_strict(info.frame_times_us, clip.start_us, clip.end_us)
        height, width = frame_size(clip.path, info.height, info.width, len(indices), how.budget)
        quality = [cv2.IMWRITE_JPEG_QUALITY, how.quality]
        return {
            "frames": [
                cv2.imencode(".jpg", resize(f[None], (height, width))[0][..., ::-1], quality)[
                    1
                ].tobytes()
                for f in files.frames(info, indices)
            ],
            "frame_times_us": info.frame_times_us[indices],
            "frame_duration_us": info.frame_duration_us,
            "height": height,
            "width": width,
        }


NO_PICTURES = {
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
    frames: FrameOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, list[tuple[str, int, LiveCCError]]]:
    """Make a dataset of annotation files; it appears whole or not at all.

    Args:
        annotations: JSONL files.
        out: tensorflow-datasets' data directory; the dataset is <out>/streaming_clips/1.0.0.
        split: its name.
        frames: store the sampled frames of streaming clips; None stores none.
        progress: called with (conversations done, in all).

    Returns:
        The dataset's folder, and (file, line, why) of what was left out.

    Raises:
        DataError: it is there already, or nothing is usable.
    """
    tfds.disable_progress_bar()
    left: list[tuple[str, int, LiveCCError]] = []
    builder = StreamingClips(
        annotations,
        split,
        frames,
        progress,
        lambda *what: left.append(what),
        data_dir=str(out),
        file_format="array_record",
    )
    folder = Path(builder.data_dir)
    if folder.exists():
        raise DataError(f"{folder}: exists already")
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of downloads, of which there are none
        builder.download_and_prepare()
    return folder, left
