"""Builds an index: every example of some annotation files, encoded once and stored as columns.

The lines are indexed chunk by chunk. Finished chunks lie in a folder beside the future index, so that a
build that was stopped continues where it was, and memory does not grow with the number of examples.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from livecc_jax.data.annotations.datasets import Annotations, open_annotations
from livecc_jax.data.examples.encode import FORMS
from livecc_jax.data.files.cache import DEFAULT_GB, FileCache
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.paths import absolute_path, common_root, is_remote
from livecc_jax.data.files.remote import file_stat
from livecc_jax.data.index.chunks import IndexSettings, LineChunk
from livecc_jax.data.index.merge import merge_shards
from livecc_jax.data.index.meta import VERSION
from livecc_jax.data.index.reader import Index
from livecc_jax.data.index.workers import index_chunks
from livecc_jax.errors import ConfigError, DataError, LiveCCError, MediaError, OutputError
from livecc_jax.families import DEFAULT as DEFAULT_FAMILY
from livecc_jax.families.family import Family
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.text.tokenizer import Tokenizer, fingerprint
from livecc_jax.timeline.turns import MAX_BACKWARD_US
from livecc_jax.writing import DISK_FULL, atomic_file, make_folder, output_error, write_text

log = logging.getLogger(__name__)

CHUNK_LINES = 512  # a build that is stopped loses at most this many lines of each worker


def build_index(
    annotations: Sequence[str | Path],
    out: str | Path,
    tokenizer: Tokenizer,
    budget: PixelBudget,
    *,
    context: bool = True,
    row_tokens: int = 32768,
    form: str = "stream",
    provisional: bool = False,
    root: str = "",
    timestamps: str | Path = "",
    cache: str | Path = "",
    cache_gb: float = DEFAULT_GB,
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    chunk_lines: int = CHUNK_LINES,
    rules: MediaRules = DEFAULT,
    media_root: MediaRoot | None = None,
    silent_tail: int = 0,
    family: Family = DEFAULT_FAMILY,
) -> Index:
    """Encodes every example and writes the index; continues an earlier build that was stopped.

    Args:
        annotations: Paths of JSONL files, local or in buckets, or of datasets.
        out: Directory to create.
        tokenizer: The model's tokenizer.
        budget: Pixel budget of a frame.
        context: Whether the title or the previous commentary is shown.
        row_tokens: Tokens of a row. Streaming examples that have more are split at turn boundaries,
            others are rejected.
        form: `stream`, or `caption` for all words of a clip after all its frames.
        provisional: Whether to believe annotations that give duration and size, without opening the
            files.
        root: Root of relative paths in the index; by default the folder that contains all annotations.
        timestamps: SQLite file that keeps the timestamps of videos for other indexes too.
        cache: Folder for copies of videos in buckets.
        cache_gb: Size of that folder in GB at most.
        workers: Number of worker processes; 0 works in this process.
        overwrite: Whether to replace an existing index.
        progress: Called with the number of lines done and of all lines.
        chunk_lines: Number of lines that are indexed together.
        rules: How videos and images are read; the index records them and keeps to them.
        media_root: Confines what annotations may point to; other conversations are rejected.
        silent_tail: Number of silent turns at the end of a streaming example that are kept; 0 as
            published.
        family: The family of the model that will be trained; the index records it.

    Raises:
        DataError: A file is malformed, no example is usable, or `out` exists.
        ConfigError: An argument has an invalid value.
        OutputError: The disk is full, or the index cannot be written for another reason.
    """
    out = Path(out)
    if workers < 0:
        raise ConfigError(f"the number of workers cannot be {workers}")
    FileCache.from_gigabytes(cache, cache_gb)
    if budget.patch != family.patches.size:
        raise ConfigError(
            f"the pixel budget counts patches of {budget.patch} pixels, but those of {family.name} "
            f"have {family.patches.size}"
        )
    if silent_tail < 0:
        raise ConfigError(f"the number of silent turns to keep cannot be {silent_tail}")
    if form not in FORMS:
        raise ConfigError(f"form {form!r} is not one of {', '.join(FORMS)}")
    if out.exists() and not (overwrite and (out / "meta.json").is_file()):
        raise DataError(f"{out}: exists already" + (" and is not an index" if overwrite else ""))
    names = [str(path) for path in annotations]
    files = [open_annotations(path) for path in names]
    make_folder(out.parent)
    root = root or common_root([f.folder for f in files])
    root = root if is_remote(root) or not root else absolute_path(root)
    if media_root is not None:
        media_root = media_root.with_datasets(f.path for f in files)
    work = out.parent / f".{out.name}.partial"
    with _full_disk_reported(out, work), _locked(work):
        settings = IndexSettings(
            budget, context, row_tokens, form, provisional, root,
            str(timestamps or work / "timestamps.sqlite"), str(cache), cache_gb, rules, media_root,
            silent_tail, family.model_type,
        )  # fmt: skip
        inputs = json.dumps(
            asdict(settings)
            | {
                "version": VERSION,
                "tokenizer": fingerprint(tokenizer),
                "stretch": chunk_lines,
                "max_backward_us": MAX_BACKWARD_US,
                "annotations": [[name, *_size_and_mtime(f.path)] for name, f in zip(names, files)],
            }
        )
        _resume_or_clear(work, inputs)
        chunks = [
            LineChunk(source, first, min(first + chunk_lines, len(file)))
            for source, file in enumerate(files)
            for first in range(0, len(file), chunk_lines)
        ]
        _index_missing(files, chunks, work, settings, tokenizer, workers, progress)
        shards = [(chunk, _shard_path(work, chunk)) for chunk in chunks]
        merge_shards(files, shards, work, out, settings, fingerprint(tokenizer))
    return Index(out)


@contextlib.contextmanager
def _full_disk_reported(out: Path, work: Path) -> Iterator[None]:
    """Turns an error of the disk into an OutputError that says how the build can be continued."""
    try:
        yield
    except (OSError, OutputError) as error:
        if isinstance(error, OSError):
            if error.filename is not None and error.errno not in DISK_FULL:
                raise  # of another file, which the error names
            error = output_error(out, error)
        if not work.exists():
            raise error from None
        remedy = "what has been indexed is kept: make room and run the same command again"
        raise OutputError(f"{error}; {remedy}") from error


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Holds the working folder, which is removed afterwards unless the build was stopped."""
    make_folder(work)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{work}: another process is building this index") from error
        try:
            yield
        except (LiveCCError, OSError):
            if not any(work.glob("*.npz")):  # there is nothing to continue from
                shutil.rmtree(work, ignore_errors=True)
            raise


def _size_and_mtime(path: str) -> tuple[int, int]:
    try:
        stat = file_stat(path)
    except MediaError as error:
        raise DataError(str(error)) from error
    return stat.size, stat.mtime_ns


def _resume_or_clear(work: Path, inputs: str) -> None:
    """Keeps finished chunks if they were made with the same inputs, and removes them otherwise."""
    earlier = work / "made_with.json"
    if earlier.is_file() and earlier.read_text(encoding="utf-8", errors="replace") == inputs:
        log.info("%s: continuing an earlier build that was stopped", work)
        return
    for entry in work.iterdir():
        if entry.name == "lock":
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_text(earlier, inputs)


def _shard_path(work: Path, chunk: LineChunk) -> Path:
    return work / f"{chunk.source:05}-{chunk.first:012}.npz"


def _index_missing(
    files: list[Annotations],
    chunks: list[LineChunk],
    work: Path,
    settings: IndexSettings,
    tokenizer: Tokenizer,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Indexes the chunks that have no shard yet; each shard's file appears complete or not at all."""
    missing = [c for c in chunks if not _shard_path(work, c).is_file()]
    total = sum(map(len, files))
    done = total - sum(c.stop - c.first for c in missing)
    if progress and done:
        progress(done, total)
    for chunk, columns in index_chunks(files, missing, settings, tokenizer, work, workers):
        # In memory first: numpy's zip file reports a full disk a second time when it is dropped.
        buffer = io.BytesIO()
        np.savez(buffer, **columns)
        with atomic_file(_shard_path(work, chunk)) as file:
            file.write(buffer.getbuffer())
        done += chunk.stop - chunk.first
        if progress:
            progress(done, total)
