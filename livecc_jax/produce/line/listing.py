"""Writes the sources of a run into their shards, before anything else is done with them.

An entry takes two lines of its shard: what it is, and the line of the list that it stands for.
"""

from __future__ import annotations

import array
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from livecc_jax.bounded_json import parse_json
from livecc_jax.data.files.paths import folder_of, is_remote, join
from livecc_jax.errors import DataError
from livecc_jax.produce.line.workspace import SOURCES, Workspace, hash_bytes, shard_of, shards_for
from livecc_jax.produce.records import Rejection, dumps
from livecc_jax.produce.sources.entries import Entry, FolderVideo, ListLine
from livecc_jax.writing import atomic_file, make_folder, write_text, writing

ORDER = "order.npy"  # uint16 [sources]: the shard of each source, in their order
BUFFER_BYTES = 1 << 16  # of each shard's file; 512 shards take 32 MB
TOO_LONG = "too long"


def list_into_shards(out: Path, entries: Iterable[Entry], shards: int = 0) -> tuple[Workspace, int]:
    """Divides sources into shards.

    They are written as they come into one file, and from there into the shards, since how many
    shards there are follows from how many sources there are.

    Args:
        out: The run's output folder.
        entries: The sources as they are listed, in order.
        shards: Number of shards; 0 chooses it by the number of sources.

    Returns:
        The workspace, and the number of sources.

    Raises:
        DataError: There is no source, or a list cannot be read.
        OutputError: The disk is full.
    """
    folder = Workspace(out, 1).root / SOURCES
    make_folder(folder)
    every = folder / "all"
    count = 0
    with atomic_file(every) as file:
        for entry in entries:
            file.write(_to_lines(entry))
            count += 1
    if not count:
        every.unlink()
        raise DataError(f"{out}: there is no source: the lists, folders or patterns name no video")
    workspace = Workspace(out, shards or _kept_shards(folder, count) or shards_for(count))
    with writing(folder), open(every, "rb") as file:
        _divide(workspace, file)
    every.unlink()
    return workspace, count


def _to_lines(entry: Entry) -> bytes:
    """Returns the two lines of an entry."""
    if isinstance(entry, FolderVideo):
        paths = [entry.video, entry.info, *[path for _, path in entry.captions]]
        value = {
            "folder": [entry.video, entry.stem, entry.info, entry.captions],
            "order": entry.order,
            "files": [_stat(path) for path in paths],
        }
        text = b""
    else:
        text = entry.text or b""
        value = {"list": entry.file, "line": entry.number, "order": entry.order}
        value["files"] = TOO_LONG if entry.text is None else _stats(entry)
    head = dumps(value).encode("utf-8", "surrogateescape")
    # Lines of a list hold no line break; one that does, of another system, is no JSON either.
    return head + b"\n" + text.replace(b"\n", b" ") + b"\n"


def _kept_shards(folder: Path, count: int) -> int:
    """Returns the number of shards of an earlier run here while it still fits; else 0.

    Another number would divide the sources, and with them all that is known of them, anew.
    """
    try:
        before = int((folder / "shards").read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0
    fitting = shards_for(count)
    return before if fitting / 8 <= before <= fitting * 8 else 0


def _divide(workspace: Workspace, file: BinaryIO) -> None:
    """Writes each entry into the file of its shard; files that are not complete keep another name."""
    order = array.array("H")
    folder = workspace.root / SOURCES
    paths = [workspace.sources(shard) for shard in range(workspace.shards)]
    with ExitStack() as stack:
        files = [
            stack.enter_context(open(path.with_suffix(".new"), "wb", buffering=BUFFER_BYTES))
            for path in paths
        ]
        for head in file:
            text = file.readline()
            # By what stands in the list, not by its place: lines that are added move no other.
            name = text if text != b"\n" else json.dumps(json.loads(head).get("folder")).encode()
            shard = shard_of(name, workspace.shards)
            files[shard].write(head + text)
            order.append(shard)
    for path in paths:
        os.replace(path.with_suffix(".new"), path)
    for path in folder.glob("*.jsonl"):
        if path.stem.isdecimal() and int(path.stem) >= workspace.shards:
            path.unlink()
    with atomic_file(folder / ORDER) as target:
        np.save(target, np.frombuffer(order, np.uint16))
    write_text(folder / "shards", str(workspace.shards))


def read_shard(workspace: Workspace, shard: int) -> Iterator[tuple[str, Entry]]:
    """Yields (key, entry) of each source of a shard, in order. The key is a digest of the entry."""
    with open(workspace.sources(shard), "rb") as file:
        for head in file:
            text = file.readline()
            yield hash_bytes(head, text), _from_lines(head, text[:-1])


def _from_lines(head: bytes, text: bytes) -> Entry:
    value = json.loads(head.decode("utf-8", "surrogateescape"))
    if "folder" in value:
        video, stem, info, captions = value["folder"]
        return FolderVideo(value["order"], video, stem, info, tuple(map(tuple, captions)))
    line = None if value["files"] == TOO_LONG else text
    return ListLine(value["order"], value["list"], value["line"], line)


def read_order(workspace: Workspace) -> np.ndarray:
    """Returns uint16 [sources]: the shard of each source, in their order."""
    return np.load(workspace.root / SOURCES / ORDER)


def reject_entry(entry: Entry, stage: str, reason: str, value: object = None) -> Rejection:
    """Returns the rejection of a source that has not been read."""
    if isinstance(entry, FolderVideo):
        return Rejection(entry.order, entry.name, entry.video or entry.stem, stage, reason, value)
    name = f"{entry.file} line {entry.number}"
    return Rejection(entry.order, name, name, stage, reason, value)


def _stats(line: ListLine) -> list[tuple[int, int] | None]:
    """Returns the state of the files that a line of a list names and that the line stands for: a line
    that gives the words needs no captions, and is not opened."""
    names = [name for name in ("captions", "video") if b'"%s"' % name.encode() in line.text]
    if b'"words"' in line.text or "video" not in names:
        return []
    try:
        value = parse_json(line.text)
        folder = folder_of(line.file)
        return [
            _stat(join(folder, value[name])) if isinstance(value.get(name), str) else None
            for name in names
        ]
    except (ValueError, AttributeError):
        return []


def _stat(path: str) -> tuple[int, int] | None:
    """Returns size and time of change of a file, so that another file of the same name is noticed;
    None for one that is not there or lies in a bucket."""
    if not path or is_remote(path):
        return None
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns
