"""What demuxing found in video files, kept on disk: a file is read once, whoever asks and how often."""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from pathlib import Path

import numpy as np

from livecc_jax.data.files.remote import Stamp
from livecc_jax.errors import DataError, MediaError
from livecc_jax.media.video import VideoInfo

WAIT_S = 60.0  # for another process that is writing


class Timestamps:
    """Timestamps by path, size and time of change, in a SQLite file that processes share.

    Raises:
        DataError: the file is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._local = threading.local()
        self._db()

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.__init__(path)

    def _db(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "db"):
            try:
                db = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=OFF")  # what a crash loses is read again
                db.execute(
                    "CREATE TABLE IF NOT EXISTS videos "
                    "(path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, found BLOB) WITHOUT ROWID"
                )
            except sqlite3.Error as error:
                raise DataError(f"{self.path}: cannot keep timestamps ({error})") from error
            self._local.db = db
        return self._local.db

    def get(self, path: str, seen: Stamp) -> VideoInfo | MediaError | None:
        """What was found in the file as it is now; None when that is not known."""
        if not seen.mtime_ns:
            return None  # it may have been replaced by one of the same size
        row = self._db().execute(
            "SELECT found FROM videos WHERE path = ? AND size = ? AND mtime = ?",
            (path, seen.size, seen.mtime_ns),
        ).fetchone()  # fmt: skip
        return _unpack(path, row[0]) if row else None

    def put(self, path: str, seen: Stamp, found: VideoInfo | MediaError) -> None:
        """Keep what was found."""
        try:
            self._db().execute(
                "INSERT OR REPLACE INTO videos VALUES (?, ?, ?, ?)",
                (path, seen.size, seen.mtime_ns, _pack(found)),
            )
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: cannot keep timestamps ({error})") from error

    def close(self) -> None:
        """Close this thread's connection."""
        if hasattr(self._local, "db"):
            self._local.db.close()
            del self._local.db


def _pack(found: VideoInfo | MediaError) -> bytes:
    if isinstance(found, MediaError):
        head, body = {"error": str(found)}, b""
    else:
        head = {
            "frame_duration_us": found.frame_duration_us,
            "width": found.width,
            "height": found.height,
            "lead_us": found.lead_us,
        }
        # Frames come at nearly equal gaps, so the gaps compress to next to nothing.
        body = np.diff(found.pts_us, prepend=0).astype(np.int64).tobytes()
    return zlib.compress(json.dumps(head).encode() + b"\n" + body, 6)


def _unpack(path: str, packed: bytes) -> VideoInfo | MediaError:
    head, body = zlib.decompress(packed).split(b"\n", 1)
    values = json.loads(head)
    if "error" in values:
        return MediaError(values["error"])
    return VideoInfo(path, np.cumsum(np.frombuffer(body, np.int64)), **values)
