"""Writes files so that a full disk or a killed process leaves nothing half-written that looks complete.

`atomic_file` is for a file that is written once, `RecordFile` for one that grows while a command runs.
Both raise OutputError, whose sentence names the file that the user asked for.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from livecc_jax.errors import OutputError

if TYPE_CHECKING:
    import numpy as np

# Errors of a disk or quota that has no room; EFBIG is that of a limit on the size of a file.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNITS = ("kB", "MB", "GB", "TB", "PB")


def format_bytes(count: float) -> str:
    """Returns a number of bytes in the decimal unit that fits, such as `812 bytes` or `80.3 MB`."""
    if count < 10_000:
        return f"{count:.0f} bytes"
    value, unit = count / 1000, 0
    while value >= 999.95 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {UNITS[unit]}"


def output_error(path: str | Path, error: OSError, remedy: str = "") -> OutputError:
    """Returns the error to raise for a file that cannot be written.

    Args:
        path: The file or folder that the user asked for.
        error: What the system said.
        remedy: Clause that ends the sentence.
    """
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL[:2] and not str(path).startswith("/dev/"):
        with contextlib.suppress(OSError, StopIteration):
            folder = next(p for p in Path(path).absolute().parents if p.is_dir())
            reason += f", {format_bytes(shutil.disk_usage(folder).free)} free"
    return OutputError(f"{path}: cannot be written: {reason}{'; ' * bool(remedy)}{remedy}")


@contextlib.contextmanager
def writing(path: str | Path, remedy: str = "") -> Iterator[None]:
    """Turns an OSError of the block into an OutputError that names `path`, and ends with `remedy`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(path, error, remedy) from error


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Yields an open file that takes the place of `path` once the block has ended without an error.

    Until then an earlier file is as it was. A device or a pipe is written to directly. Text is UTF-8.

    Args:
        path: The file to write.
        mode: `wb` or `w`.

    Raises:
        OutputError: The file cannot be written.
    """
    options = {} if "b" in mode else {"encoding": "utf-8"}
    with writing(path):
        target = os.path.realpath(path)
        try:
            existing = os.stat(target)
        except FileNotFoundError:
            existing = None
        # A folder is opened too, which fails with the reason.
        if existing is not None and not stat.S_ISREG(existing.st_mode):
            with open(target, mode, **options) as file:
                yield file
            return
        # A short name of its own: that of the file may be as long as the file system allows.
        unfinished = Path(target).with_name(f".livecc-{os.getpid()}-{os.urandom(4).hex()}.part")
        try:
            with open(unfinished, mode.replace("w", "x"), **options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if existing is not None:
                os.chmod(unfinished, stat.S_IMODE(existing.st_mode))
            os.replace(unfinished, target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise


def make_folder(path: str | Path) -> None:
    """Creates a folder and its parents where they do not exist. Raises OutputError."""
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copies the content of a file, completely or not at all.

    Raises:
        OutputError: The target cannot be written.
        OSError: The source cannot be read.
    """
    with open(source, "rb") as original, atomic_file(target) as file:
        shutil.copyfileobj(original, file)


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed npz file, complete or not at all. Raises OutputError."""
    import numpy as np

    # In memory first: numpy's zip file reports an error of the disk a second time when it is dropped.
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, complete or not at all. Raises OutputError."""
    with atomic_file(path, "w") as file:
        file.write(text)


class RecordFile:
    """A file that grows by whole records; one that finds no room is taken back completely.

    Args:
        path: The file to write.
        append: Whether to continue an existing file.

    Raises:
        OutputError: The file cannot be written.
    """

    def __init__(self, path: str | Path, append: bool = False) -> None:
        self._path = path
        with writing(path):
            # Without a buffer, which would keep the rest of a record that failed.
            self._file = open(path, "ab" if append else "wb", buffering=0)  # noqa: SIM115

    def write(self, record: str | bytes) -> None:
        """Appends a record. Raises OutputError; the file then ends with the record before it."""
        rest = memoryview(record.encode("utf-8") if isinstance(record, str) else record)
        handle = self._file.fileno()
        with writing(self._path):
            before = os.fstat(handle).st_size
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except BaseException:
                with contextlib.suppress(OSError):  # a device or a pipe takes nothing back
                    os.ftruncate(handle, before)
                    if self._file.seekable():
                        self._file.seek(before)
                raise

    def close(self) -> None:
        """Closes the file. Raises OutputError, as some file systems report a full disk only then."""
        with writing(self._path):
            self._file.close()

    def __enter__(self) -> RecordFile:
        """Returns the file itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file."""
        self.close()
