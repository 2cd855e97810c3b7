"""Where videos and images are looked at: timestamps once a file, pictures when they are needed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from livecc_jax.data.annotations.datasets import REFERENCE, stored_frames, stored_info
from livecc_jax.data.files.cache import FileCache
from livecc_jax.data.files.remote import Stamp, is_remote, stamp
from livecc_jax.data.files.timestamps import Timestamps
from livecc_jax.errors import MediaError
from livecc_jax.media.video import VideoInfo, iter_frames, probe, read_image
from livecc_jax.timeline.example import Clip, Picture

KEPT = 256  # files whose timestamps stay in memory
STAMPS_KEPT = 1 << 16
DECLARED_GAP_US = 33_333  # frames of a file that is only declared: 30 a second


@dataclass(frozen=True)
class FileFacts:
    """What an index stores of a file, to tell later that it is the same.

    check is a digest of the timestamps and the size of a video, of the bytes of an image; 0 says that
    the file itself was not read. width and height are in pixels as displayed.
    """

    size: int
    mtime_ns: int
    check: int
    frame_duration_us: int
    lead_us: int
    width: int
    height: int


def digest_of(info: VideoInfo) -> int:
    """63 bits of a digest of what decides which frames are shown."""
    total = hashlib.sha256(np.ascontiguousarray(info.pts_us, np.int64).tobytes())
    total.update(f"{info.frame_duration_us} {info.lead_us} {info.width} {info.height}".encode())
    return int.from_bytes(total.digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Picked:
    """An image file as it was seen."""

    size: tuple[int, int]  # height, width
    digest: int


class MediaFiles:
    """Videos and images by path.

    Args:
        timestamps: keeps what was read on disk.
        declared: believe annotations that say how long and large a file is, and do not open it.
        cache: for copies of files in buckets; by default in the user's cache folder.
    """

    def __init__(
        self,
        timestamps: Timestamps | None = None,
        declared: bool = False,
        cache: FileCache | None = None,
    ) -> None:
        self._timestamps = timestamps
        self._cache = cache or FileCache()
        self._declared = declared
        self._known: OrderedDict[tuple[str, Stamp], VideoInfo | Picked] = OrderedDict()
        self._stamps: OrderedDict[str, Stamp] = OrderedDict()
        self._lock = Lock()

    def video(self, clip: Clip) -> VideoInfo:
        """Timestamps and size of a clip's file. Raises MediaError."""
        duration = getattr(clip, "duration_us", 0)
        if self._declared and duration:
            pts = np.arange(0, duration, DECLARED_GAP_US)
            return VideoInfo(clip.path, pts, DECLARED_GAP_US, clip.width, clip.height)
        found = self._look(clip.path, self._stamp(clip.path), video=True)
        assert isinstance(found, VideoInfo)
        return found

    def picture(self, picture: Picture) -> tuple[int, int]:
        """Height and width of an image. Raises MediaError."""
        if self._declared and getattr(picture, "width", 0):
            return picture.height, picture.width
        return self._look(picture.path, self._stamp(picture.path), video=False).size

    def facts(self, item: Clip | Picture | str, video: bool) -> FileFacts:
        """What identifies a file that was looked at before. Raises MediaError."""
        seen = self._stamp(item)
        found = self._look(item, seen, video)
        if isinstance(found, Picked):
            return FileFacts(seen.size, seen.mtime_ns, found.digest, 0, 0, *found.size[::-1])
        return FileFacts(
            seen.size, seen.mtime_ns, digest_of(found),
            found.frame_duration_us, found.lead_us, found.width, found.height,
        )  # fmt: skip

    def check(self, path: str, facts: FileFacts, video: bool) -> None:
        """Make sure that a file is still what it was.

        The same size and time of change are believed; another time of change (a copy) is settled by
        reading the timestamps, or the image, once.

        Raises:
            MediaError: it is gone or has changed.
        """
        seen = self._stamp(path)
        if seen.size != facts.size:
            raise MediaError(
                f"{path}: has changed since it was indexed: "
                f"it had {facts.size} bytes and has {seen.size}"
            )
        if facts.mtime_ns and seen.mtime_ns == facts.mtime_ns:
            return
        found = self._look(path, seen, video)
        now = found.digest if isinstance(found, Picked) else digest_of(found)
        if now != facts.check:
            what = "timestamps" if video else "contents"
            raise MediaError(f"{path}: has changed since it was indexed: its {what} are others")

    def frames(self, info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Frames by number, each uint8 [H, W, 3] RGB; a repeated one is the same array.

        Raises MediaError.
        """
        if REFERENCE.fullmatch(info.path):
            yield from stored_frames(info, indices)
            return
        with self._local(info.path) as path:
            yield from iter_frames(dataclasses.replace(info, path=path), indices)

    def image(self, path: str) -> np.ndarray:
        """An image: uint8 [H, W, 3] RGB. Raises MediaError."""
        with self._local(path) as local:
            return read_image(local)

    def _stamp(self, path: str) -> Stamp:
        """The file's stamp; a store is asked once, its objects are replaced and not edited."""
        if not is_remote(path):
            return stamp(path)
        with self._lock:
            if path in self._stamps:
                return self._stamps[path]
        seen = stamp(path)
        with self._lock:
            self._stamps[path] = seen
            while len(self._stamps) > STAMPS_KEPT:
                self._stamps.popitem(last=False)
        return seen

    @contextlib.contextmanager
    def _local(self, path: str) -> Iterator[str]:
        """A local path of a file, good until the block ends; errors name the file by its address."""
        if not is_remote(path):
            yield path
            return
        with self._cache.local(path, self._stamp(path)) as local:
            try:
                yield local
            except MediaError as error:
                raise MediaError(str(error).replace(local, path)) from error

    def _look(self, path: str, seen: Stamp, video: bool) -> VideoInfo | Picked:
        key = (path, seen)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = self._read(path, seen, video)
        with self._lock:
            self._known[key] = found
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return found

    def _read(self, path: str, seen: Stamp, video: bool) -> VideoInfo | Picked:
        if not video:
            size = self.image(path).shape[:2]
            with self._local(path) as local:
                digest = hashlib.sha256(Path(local).read_bytes()).digest()
            return Picked((int(size[0]), int(size[1])), int.from_bytes(digest[:8], "big") >> 1)
        stored = self._timestamps.get(path, seen) if self._timestamps else None
        if isinstance(stored, MediaError):
            raise stored
        if stored is not None:
            return stored
        try:
            if REFERENCE.fullmatch(path):
                info = stored_info(path)
            else:
                with self._local(path) as local:
                    info = dataclasses.replace(probe(local), path=path)
        except MediaError as error:
            if self._timestamps:
                self._timestamps.put(path, seen, error)
            raise
        if self._timestamps:
            self._timestamps.put(path, seen, info)
        return info
