"""Reads videos and images by path: timestamps and sizes are cached, frames are decoded on demand."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from livecc_jax.data.annotations.datasets import RECORD_PATH, dataset_frames, dataset_video_info
from livecc_jax.data.files.cache import FileCache
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.paths import is_remote
from livecc_jax.data.files.remote import FileStat, file_stat
from livecc_jax.data.files.timestamps import TimestampCache
from livecc_jax.errors import DataError, MediaError
from livecc_jax.media.earlier import probe_earlier, read_image_earlier
from livecc_jax.media.images import read_image
from livecc_jax.media.rules import DEFAULT, VERSION, MediaRules
from livecc_jax.media.video import VideoInfo, iter_frames, probe
from livecc_jax.timeline.example import ImageFile, VideoClip

log = logging.getLogger(__name__)

MAX_CACHED_FILES = 256  # files whose timestamps stay in memory
MAX_CACHED_STATS = 1 << 16
DECLARED_FRAME_US = 33_333  # frame duration of a file that is only declared: 30 FPS


@dataclass(frozen=True)
class FileIdentity:
    """What an index stores of a file, to recognise later that it is unchanged.

    Attributes:
        size: Size in bytes.
        mtime_ns: Time of the last change in nanoseconds.
        check: Digest of a video's timestamps and size, or of an image's bytes; 0 when the file was not
            read.
        frame_duration_us: Nominal duration of a video's frame in microseconds.
        lead_us: Microseconds from a stream's nominal start to its first frame.
        width: Width in pixels as displayed.
        height: Height in pixels as displayed.
    """

    size: int
    mtime_ns: int
    check: int
    frame_duration_us: int
    lead_us: int
    width: int
    height: int


def video_digest(info: VideoInfo) -> int:
    """Returns 63 bits of a digest of everything that determines which frames are shown."""
    digest = hashlib.sha256(np.ascontiguousarray(info.pts_us, np.int64).tobytes())
    digest.update(f"{info.frame_duration_us} {info.lead_us} {info.width} {info.height}".encode())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


@dataclass(frozen=True)
class ImageInfo:
    """Size and contents of an image file.

    Attributes:
        size: Height and width in pixels.
        digest: 63 bits of a digest of the file's bytes.
    """

    size: tuple[int, int]
    digest: int


class MediaFiles:
    """Videos and images by path.

    Args:
        timestamps: Keeps timestamps on disk, for other processes and later runs.
        declared: Whether to believe annotations that give duration and size, without opening the file.
        cache: Holds copies of files in buckets; by default in the user's cache folder.
        max_cached_files: Number of files whose timestamps stay in memory.
        rules: How videos and images are read.
        media_root: Confines the paths and addresses that are read, which come from annotations.
    """

    def __init__(
        self,
        timestamps: TimestampCache | None = None,
        declared: bool = False,
        cache: FileCache | None = None,
        max_cached_files: int = MAX_CACHED_FILES,
        rules: MediaRules = DEFAULT,
        media_root: MediaRoot | None = None,
    ) -> None:
        self.rules = rules
        self._media_root = media_root
        self._timestamps = timestamps
        self._cache = cache or FileCache()
        self._declared = declared
        self._max_cached_files = max_cached_files
        self._infos: OrderedDict[tuple[str, FileStat, MediaRules], VideoInfo | ImageInfo] = (
            OrderedDict()
        )
        self._stats: OrderedDict[str, FileStat] = OrderedDict()
        self._lock = Lock()

    def with_rules(self, rules: MediaRules) -> MediaFiles:
        """Returns a reader by other rules, which shares the caches of this one."""
        if rules == self.rules:
            return self
        other = copy.copy(self)
        other.rules = rules
        return other

    def video_info(self, clip: VideoClip) -> VideoInfo:
        """Returns timestamps and size of a clip's file. Raises MediaError."""
        self._check_path(clip.path)
        duration_us = getattr(clip, "duration_us", 0)
        if self._declared and duration_us:
            pts_us = np.arange(0, duration_us, DECLARED_FRAME_US)
            return VideoInfo(
                clip.path, pts_us, DECLARED_FRAME_US, clip.width, clip.height, rules=self.rules
            )
        info = self._info(clip.path, self._stat(clip.path), is_video=True)
        assert isinstance(info, VideoInfo)
        return info

    def image_size(self, image: ImageFile) -> tuple[int, int]:
        """Returns height and width of an image in pixels. Raises MediaError."""
        self._check_path(image.path)
        if self._declared and getattr(image, "width", 0):
            return image.height, image.width
        return self._info(image.path, self._stat(image.path), is_video=False).size

    def identity(self, path: str, is_video: bool) -> FileIdentity:
        """Returns what identifies the current version of a file. Raises MediaError."""
        stat = self._stat(path)
        info = self._info(path, stat, is_video)
        if isinstance(info, ImageInfo):
            return FileIdentity(stat.size, stat.mtime_ns, info.digest, 0, 0, *info.size[::-1])
        return FileIdentity(
            stat.size, stat.mtime_ns, video_digest(info),
            info.frame_duration_us, info.lead_us, info.width, info.height,
        )  # fmt: skip

    def check_unchanged(self, path: str, identity: FileIdentity, is_video: bool) -> None:
        """Checks that a file is still the one that was indexed.

        Equal size and modification time are trusted. Another modification time, as of a copy, is
        settled by reading the timestamps, or the image, once.

        Raises:
            MediaError: The file is gone or has changed.
        """
        stat = self._stat(path)
        if stat.size != identity.size:
            raise MediaError(
                f"{path}: has changed since it was indexed: "
                f"it had {identity.size} bytes and has {stat.size}"
            )
        if identity.mtime_ns and stat.mtime_ns == identity.mtime_ns:
            return
        info = self._info(path, stat, is_video)
        digest = info.digest if isinstance(info, ImageInfo) else video_digest(info)
        if digest != identity.check:
            part = "timestamps" if is_video else "contents"
            raise MediaError(f"{path}: has changed since it was indexed: its {part} differ")

    def frames(self, info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yields frames by number.

        Args:
            info: Timestamps and size of the file.
            indices: Frame numbers, ascending; they may repeat.

        Yields:
            uint8 [H, W, 3] RGB for each index; a repeated frame is the same array.

        Raises:
            MediaError: A frame cannot be read.
        """
        if RECORD_PATH.fullmatch(info.path):
            self._check_path(info.path)
            yield from dataset_frames(info, indices)
            return
        try:
            with self._local(info.path) as path:
                yield from iter_frames(dataclasses.replace(info, path=path), indices)
        except MediaError as error:
            self._check_times(info, error)
            raise

    def image(self, path: str) -> np.ndarray:
        """Returns an image as uint8 [H, W, 3] RGB. Raises MediaError."""
        read = read_image_earlier if self.rules.version == 1 else read_image
        with self._local(path) as local:
            return read(local)

    def _check_times(self, info: VideoInfo, error: MediaError) -> None:
        """Raises DataError if a frame of an index is not found because rules have changed since.

        Args:
            info: Frames of an index.
            error: What reading them raised.
        """
        if info.rules.version == VERSION:
            return
        # Version 1 took the first track.
        rules = dataclasses.replace(info.rules, version=VERSION, track=info.rules.track or 0)
        try:
            today = self.with_rules(rules)._info(info.path, self._stat(info.path), is_video=True)
        except MediaError:
            return  # the file is damaged
        if not np.isin(info.pts_us, today.pts_us).all():
            raise DataError(
                f"{info.path}: was indexed when the frames of such a file were given other times; "
                "index again"
            ) from error

    def _check_path(self, path: str) -> None:
        """Raises MediaError when an annotation may not name a path or an address."""
        if self._media_root is None:
            return
        if record := RECORD_PATH.fullmatch(path):
            self._media_root.check_record(path, record["folder"])
        else:
            self._media_root.check(path)

    def _stat(self, path: str) -> FileStat:
        """Returns a file's size and modification time.

        A store is asked only once: objects in a bucket are replaced under new names, not edited.
        """
        self._check_path(path)
        if not is_remote(path):
            return file_stat(path)
        with self._lock:
            if path in self._stats:
                return self._stats[path]
        stat = file_stat(path, self._media_root)
        with self._lock:
            self._stats[path] = stat
            while len(self._stats) > MAX_CACHED_STATS:
                self._stats.popitem(last=False)
        return stat

    @contextlib.contextmanager
    def _local(self, path: str) -> Iterator[str]:
        """Yields a local path of a file, valid until the block ends; errors name the original path."""
        self._check_path(path)
        if not is_remote(path):
            if self._media_root is not None:
                self._media_root.check_content(path, path)
            yield path
            return
        with self._cache.local(path, self._stat(path), self._media_root) as local:
            try:
                if self._media_root is not None:
                    self._media_root.check_content(local, path)
                yield local
            except MediaError as error:
                raise MediaError(str(error).replace(local, path)) from error

    def _info(self, path: str, stat: FileStat, is_video: bool) -> VideoInfo | ImageInfo:
        key = (path, stat, self.rules)
        with self._lock:
            if key in self._infos:
                self._infos.move_to_end(key)
                return self._infos[key]
        info = self._video_info(path, stat) if is_video else self._image_info(path)
        with self._lock:
            self._infos[key] = info
            while len(self._infos) > self._max_cached_files:
                self._infos.popitem(last=False)
        return info

    def _image_info(self, path: str) -> ImageInfo:
        height, width = self.image(path).shape[:2]
        with self._local(path) as local:
            digest = hashlib.sha256(Path(local).read_bytes()).digest()
        return ImageInfo((int(height), int(width)), int.from_bytes(digest[:8], "big") >> 1)

    def _video_info(self, path: str, stat: FileStat) -> VideoInfo:
        cached = self._timestamps.get(path, stat, self.rules) if self._timestamps else None
        if isinstance(cached, MediaError):
            raise cached
        if cached is not None:
            return cached
        log.debug("%s: reading timestamps", path)
        try:
            if RECORD_PATH.fullmatch(path):
                info = dataclasses.replace(dataset_video_info(path), rules=self.rules)
            else:
                read = probe_earlier if self.rules.version == 1 else probe
                with self._local(path) as local:
                    info = dataclasses.replace(read(local, self.rules), path=path)
        except MediaError as error:
            if self._timestamps:
                self._timestamps.put(path, stat, error, self.rules)
            raise
        if self._timestamps:
            self._timestamps.put(path, stat, info, self.rules)
        return info
