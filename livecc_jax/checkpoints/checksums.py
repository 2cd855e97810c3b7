"""Checksums of the files of a training step, so that a damaged byte does not become another weight.

    <run>/<step>/<item>/checksums.json    size and CRC-32 of every other file of the item

Orbax stores arrays without checksums: most flipped bytes end in an error when an array is decompressed,
the others in another weight. Steps of earlier versions have no checksums and are not checked.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import parse_json, read_json_file
from livecc_jax.errors import CheckpointError

CHECKSUMS = "checksums.json"
ALGORITHM = "crc32"
BLOCK_BYTES = 1 << 26  # bytes of a checksum: long files have several, which are computed in parallel
READ_BYTES = 1 << 20
MAX_NAME_BYTES = 2048  # of a file, relative to its folder; file systems allow no more than 255 a part

Entry = dict[str, Any]  # {"bytes": size of the file, "crc32": a number for each block}


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a folder that have none yet; `write_part` may have made some.

    Raises:
        OSError: A file cannot be read, or the checksums cannot be written.
    """
    parts = sorted(folder.glob(f"{CHECKSUMS}.*"))
    entries: dict[str, Entry] = {}
    for part in parts:
        entries |= parse_json(part.read_bytes())
    names = [name for name in _file_names(folder) if name not in entries]
    entries |= _checksums(folder, [n for n in names if not n.startswith(CHECKSUMS)])
    content = {
        "algorithm": ALGORITHM,
        "block_bytes": BLOCK_BYTES,
        "files": dict(sorted(entries.items())),
    }
    (folder / CHECKSUMS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for part in parts:
        part.unlink()


def write_part(folder: Path, subfolder: str) -> None:
    """Write the checksums of one subfolder for `write_checksums`; each process does so for its own.

    Raises:
        OSError: A file cannot be read, or the checksums cannot be written.
    """
    names = [f"{subfolder}/{name}" for name in _file_names(folder / subfolder)]
    if names:
        part = folder / f"{CHECKSUMS}.{subfolder}"
        part.write_text(json.dumps(_checksums(folder, names)), encoding="utf-8")


def check_files(
    folder: Path, max_bytes: int | None = None, share: tuple[int, int] = (0, 1)
) -> int | None:
    """Compare the files of a folder with its checksums.

    Args:
        folder: Folder of an item of a step.
        max_bytes: Size of the largest files to check; None checks all.
        share: (i, n) checks the i-th of n shares of the files.

    Returns:
        Number of files that were checked; None when the folder has no checksums, as in steps of earlier
        versions.

    Raises:
        CheckpointError: Files are missing or not as they were written; the message names them.
    """
    entries = _read_entries(folder / CHECKSUMS)
    if entries is None:
        return None
    names = [
        name for name, entry in entries.items() if max_bytes is None or entry["bytes"] <= max_bytes
    ]
    names = names[share[0] :: share[1]]
    present = [name for name in names if (folder / name).is_file()]
    problems = [f"{name} is missing" for name in names if name not in present]
    sized = [n for n in present if (folder / n).stat().st_size == entries[n]["bytes"]]
    problems += [f"{name} has another size" for name in present if name not in sized]
    try:
        found = _checksums(folder, sized)
    except OSError as e:
        raise CheckpointError(f"{e.filename}: cannot be read ({e.strerror})") from e
    problems += [f"{name} has other bytes" for name in sized if found[name] != entries[name]]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{folder.parent}: its {folder.name} cannot be read: files are not as they were written "
            f"({', '.join(problems[:3])}{more})"
        )
    return len(names)


def _read_entries(file: Path) -> dict[str, Entry] | None:
    """Returns the entries of a checksums.json, or None without one.

    Raises CheckpointError when it is damaged.
    """
    try:
        content = read_json_file(file)
        entries = content["files"]
        valid = content["algorithm"] == ALGORITHM and content["block_bytes"] == BLOCK_BYTES
        for name, entry in entries.items():
            path = Path(name)
            valid &= not path.is_absolute() and ".." not in path.parts and "\0" not in name
            valid &= len(name) < MAX_NAME_BYTES and all(len(p.encode()) < 256 for p in path.parts)
            valid &= set(entry) == {"bytes", ALGORITHM} and type(entry["bytes"]) is int
    except FileNotFoundError:
        return None
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be read ({e.strerror})") from e
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise CheckpointError(f"{file}: is damaged: it is not a list of checksums")
    return entries


def _file_names(folder: Path) -> list[str]:
    """Returns the files of a folder and its subfolders, relative to it."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(names)


def _checksums(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Returns the entries of files; blocks are read in parallel."""
    sizes = {name: (folder / name).stat().st_size for name in names}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "checksums") as pool:
        jobs = {
            name: [pool.submit(_block_crc, folder / name, i) for i in range(0, size, BLOCK_BYTES)]
            for name, size in sizes.items()
        }
        return {
            name: {"bytes": sizes[name], ALGORITHM: [job.result() for job in blocks]}
            for name, blocks in jobs.items()
        }


def _block_crc(file: Path, start: int) -> int:
    crc, left = 0, BLOCK_BYTES
    with file.open("rb", buffering=0) as f:
        f.seek(start)
        while left and (piece := f.read(min(READ_BYTES, left))):
            crc = zlib.crc32(piece, crc)
            left -= len(piece)
    return crc
