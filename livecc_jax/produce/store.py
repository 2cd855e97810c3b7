"""Reads small files whole, local or in a bucket."""

from __future__ import annotations

from livecc_jax.bounded_json import JsonError, read_bounded
from livecc_jax.data.files.paths import is_remote
from livecc_jax.data.files.remote import RandomAccessFile
from livecc_jax.errors import DataError, MediaError


def read_bytes(path: str, max_bytes: int) -> bytes:
    """Returns the content of a file.

    Args:
        path: Path or address of the file.
        max_bytes: Most bytes that it may have.

    Raises:
        DataError: The file cannot be read, or is larger.
    """
    try:
        if not is_remote(path):
            return read_bounded(path, max_bytes)
        file = RandomAccessFile(path)
        if file.size > max_bytes:
            raise DataError(f"{path}: has {file.size} bytes, more than the {max_bytes} that are read")
        return file.read(0, file.size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except JsonError as error:
        raise DataError(f"{path!a:.300}: {error}") from error
    except MediaError as error:
        raise DataError(str(error)) from error
    except ValueError as error:  # a character that no file name can have
        raise DataError(f"{path!a:.300}: is no possible path") from error
