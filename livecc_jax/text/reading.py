"""Reads a tokenizer's file within a limit of size, compressed or not."""

from __future__ import annotations

import lzma
from pathlib import Path

from livecc_jax.bounded_json import JsonError, read_bounded
from livecc_jax.errors import TokenizerError

MAX_BYTES = 128 << 20  # of a tokenizer's file, unpacked; Qwen2's has 11 MB
MAX_VOCABULARY = 10_000_000  # ids of a tokenizer; Qwen2 has 151,665
MAX_UNPACKING_MEMORY = 256 << 20  # of the xz decoder; the strongest preset takes 65 MiB


def read_tokenizer_file(path: Path) -> bytes:
    """Returns the bytes of a tokenizer's file, unpacked if its name ends in .xz.

    Raises:
        TokenizerError: The file cannot be read or unpacked, or is larger than any tokenizer.
    """
    try:
        data = read_bounded(path, MAX_BYTES)
        return _unpack(data) if path.suffix == ".xz" else data
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from error
    except JsonError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise TokenizerError(f"{path}: cannot be unpacked ({error})") from error


def _unpack(data: bytes) -> bytes:
    """Returns unpacked bytes. Raises JsonError when there are more than MAX_BYTES."""
    unpacked = b""
    while data or not unpacked:
        stream = lzma.LZMADecompressor(memlimit=MAX_UNPACKING_MEMORY)
        try:
            unpacked += stream.decompress(data, MAX_BYTES + 1 - len(unpacked))
        except lzma.LZMAError:
            if unpacked:  # what follows the last stream is not looked at, as Python's lzma does
                break
            raise
        if len(unpacked) > MAX_BYTES:
            raise JsonError(f"has more than {MAX_BYTES} bytes when it is unpacked")
        if not stream.eof:
            raise EOFError("it is cut short")
        data = stream.unused_data
    return unpacked
