"""An on-disk cache of video timestamps, so that each video file is demuxed only once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import threading
import zlib
from pathlib import Path

import numpy as np

from livecc_jax.bounded_json import parse_json
from livecc_jax.data.files.remote import FileStat
from livecc_jax.errors import DataError, MediaError
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.video import VideoInfo
from livecc_jax.redact import redact_address
from livecc_jax.writing import format_bytes

FIELDS = ("frame_duration_us", "width", "height", "lead_us")
MAX_ENTRY_BYTES = 1 << 30  # of the timestamps of one file, unpacked: a hundred million frames
LOCK_TIMEOUT_S = 60.0  # longest wait for another process that is writing


class TimestampCache:
    """Timestamps by path, rules, size and modification time, in a SQLite file that processes share.

    A file that cannot be demuxed is cached too, as its error.

    Raises:
        DataError: The file is not a SQLite database, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._local = threading.local()
        self._connection()

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.__init__(path)

    def _connection(self) -> sqlite3.Connection:
        """Returns this thread's connection."""
        if not hasattr(self._local, "connection"):
            try:
                db = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=OFF")  # what a crash loses is demuxed again
                db.execute(
                    # Files of earlier versions have a table `videos` too, of rules that no one knows.
                    "CREATE TABLE IF NOT EXISTS videos_by_rules (path TEXT, rules TEXT, size INTEGER, "
                    "mtime INTEGER, found BLOB, PRIMARY KEY (path, rules)) WITHOUT ROWID"
                )
            except sqlite3.Error as error:
                raise self._unusable(error) from error
            self._local.connection = db
        return self._local.connection

    def _unusable(self, error: sqlite3.Error) -> DataError:
        """Returns the error to raise; SQLite calls a full disk an I/O error in some places."""
        reason = str(error)
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(Path(self.path).absolute().parent).free
            reason += f"; its disk has {format_bytes(free)} free"
        return DataError(f"{self.path}: cannot keep timestamps ({reason})")

    def get(
        self, path: str, stat: FileStat, rules: MediaRules = DEFAULT
    ) -> VideoInfo | MediaError | None:
        """Returns the cached result for a file's current version; None when there is none.

        Args:
            path: Path of the file.
            stat: Its size and modification time.
            rules: How it is read.

        Raises:
            DataError: The file cannot be read.
        """
        if not stat.mtime_ns:
            return None  # the file may have been replaced by one of the same size
        try:
            record = self._connection().execute(
                "SELECT found FROM videos_by_rules WHERE path = ? AND rules = ? AND size = ? "
                "AND mtime = ?",
                (_key(path), rules.timestamps_key, stat.size, stat.mtime_ns),
            ).fetchone()  # fmt: skip
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return _decode(path, record[0], rules) if record else None

    def put(
        self,
        path: str,
        stat: FileStat,
        result: VideoInfo | MediaError,
        rules: MediaRules = DEFAULT,
    ) -> None:
        """Caches the timestamps of a file, or the error that demuxing it raised.

        Args:
            path: Path of the file.
            stat: Its size and modification time.
            result: What reading it gave.
            rules: How it was read.
        """
        try:
            self._connection().execute(
                "INSERT OR REPLACE INTO videos_by_rules VALUES (?, ?, ?, ?, ?)",
                (_key(path), rules.timestamps_key, stat.size, stat.mtime_ns, _encode(result)),
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error


def _key(path: str) -> str:
    """Returns the key of a file: its path, or of an address with a password a form without it."""
    shown = redact_address(path)
    return path if shown == path else f"{shown} {hashlib.sha256(path.encode()).hexdigest()[:16]}"


def _encode(result: VideoInfo | MediaError) -> bytes:
    if isinstance(result, MediaError):
        header, gaps = {"error": str(result)}, b""
    else:
        header = {
            "frame_duration_us": result.frame_duration_us,
            "width": result.width,
            "height": result.height,
            "lead_us": result.lead_us,
        }
        # Frames come at nearly equal gaps, so the gaps compress to very little.
        gaps = np.diff(result.pts_us, prepend=0).astype(np.int64).tobytes()
    return zlib.compress(json.dumps(header).encode() + b"\n" + gaps, 6)


def _decode(path: str, data: bytes, rules: MediaRules) -> VideoInfo | MediaError | None:
    """Returns what was cached; None when it is damaged, so that the file is read again."""
    try:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(data, MAX_ENTRY_BYTES)
        if not unpacker.eof:
            return None
        header, gaps = unpacked.split(b"\n", 1)
        values = parse_json(header)
        if isinstance(values.get("error"), str):
            return MediaError(values["error"])
        if not all(type(values[name]) is int and abs(values[name]) < 1 << 48 for name in FIELDS):
            return None
        pts_us = np.cumsum(np.frombuffer(gaps, np.int64))
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError):
        return None
    return VideoInfo(path, pts_us, **{name: values[name] for name in FIELDS}, rules=rules)
