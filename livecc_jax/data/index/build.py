"""Making an index: every example of some annotation files, planned once, as columns on disk.

The work goes stretch by stretch. What is finished lies in a folder beside the index to be, so that a
build that was stopped goes on where it was; memory does not grow with the number of examples.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from livecc_jax.data.annotations.datasets import Annotations, open_annotations
from livecc_jax.data.examples.example import FORMATS
from livecc_jax.data.files import source_path
from livecc_jax.data.files.cache import DEFAULT_GB, FileCache
from livecc_jax.data.files.remote import Stamp, is_remote, stamp
from livecc_jax.data.index.columns import ColumnWriter
from livecc_jax.data.index.reader import FORMAT, VERSION, Index
from livecc_jax.data.index.shards import Settings, Stretch, category, located
from livecc_jax.data.index.workers import planned
from livecc_jax.errors import ConfigError, DataError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.tokenizer import Tokenizer, fingerprint

__all__ = ["Index", "build_index"]

log = logging.getLogger(__name__)

STRETCH = 512  # lines planned together: what a stop loses at most, a worker
MOST_REASONS = 50


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
) -> Index:
    """Plan every example and write the index; goes on with what an earlier, stopped build did.

    Args:
        annotations: JSONL files, local or in buckets.
        out: directory to make.
        tokenizer: the model's.
        budget: pixels a frame.
        context: whether title or previous commentary is shown.
        row_tokens: streaming examples that take more are split at turn boundaries, others rejected.
        form: `stream`, or `caption`: all words of a clip after all its frames.
        provisional: believe annotations that give duration and size, without opening the files.
        root: what paths in the index are relative to; by default the folder that holds all annotations.
        timestamps: SQLite file that keeps videos' timestamps for other indexes too.
        cache: folder for copies of videos in buckets, of at most `cache_gb` GB.
        cache_gb: see `cache`.
        workers: processes that plan; 0 plans in this one.
        overwrite: replace an index that is there.
        progress: called with (examples done, examples in all).

    Raises:
        DataError: a file is malformed, nothing in it is usable, or `out` exists.
    """
    out = Path(out)
    if workers < 0:
        raise ConfigError(f"there cannot be {workers} workers")
    FileCache.of(cache, cache_gb)
    if form not in FORMATS:
        raise ConfigError(f"form {form!r} is not one of {', '.join(FORMATS)}")
    if out.exists() and not (overwrite and (out / "meta.json").is_file()):
        raise DataError(f"{out}: exists already" + (" and is no index" if overwrite else ""))
    names = [str(path) for path in annotations]
    files = [open_annotations(path) for path in names]
    out.parent.mkdir(parents=True, exist_ok=True)
    root = root or source_path.common_root([f.folder for f in files])
    root = root if is_remote(root) or not root else os.path.abspath(root)
    work = out.parent / f".{out.name}.partial"
    with _locked(work):
        settings = Settings(
            budget, context, row_tokens, form, provisional, root,
            str(timestamps or work / "timestamps.sqlite"), str(cache), cache_gb,
        )  # fmt: skip
        made_with = json.dumps(
            asdict(settings)
            | {
                "version": VERSION,
                "tokenizer": fingerprint(tokenizer),
                "stretch": STRETCH,
                "annotations": [[name, *_stamp_of(f.path)] for name, f in zip(names, files)],
            }
        )
        _resume_or_clear(work, made_with)
        _plan_all(files, work, settings, tokenizer, workers, progress)
        return _join(files, work, out, settings, tokenizer)


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the working folder, which is gone afterwards unless the build was stopped."""
    work.mkdir(exist_ok=True)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{work}: another process is making this index") from error
        try:
            yield
        except (DataError, ConfigError, MediaError):
            if not any(work.glob("*.npz")):  # nothing worth going on from
                shutil.rmtree(work, ignore_errors=True)
            raise


def _stamp_of(name: str) -> tuple[int, int]:
    try:
        seen: Stamp = stamp(name)
    except MediaError as error:
        raise DataError(str(error)) from error
    return seen.size, seen.mtime_ns


def _resume_or_clear(work: Path, made_with: str) -> None:
    before = work / "made_with.json"
    if before.is_file() and before.read_text(encoding="utf-8") == made_with:
        log.info("%s: going on where an earlier build stopped", work)
        return
    for old in work.iterdir():
        if old.name == "lock":
            continue
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    before.write_text(made_with, encoding="utf-8")


def _stretches(files: list[Annotations]) -> list[Stretch]:
    return [
        Stretch(source, first, min(first + STRETCH, len(file)))
        for source, file in enumerate(files)
        for first in range(0, len(file), STRETCH)
    ]


def _shard_path(work: Path, stretch: Stretch) -> Path:
    return work / f"{stretch.source:05}-{stretch.first:012}.npz"


def _plan_all(
    files: list[Annotations],
    work: Path,
    settings: Settings,
    tokenizer: Tokenizer,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Plan what is not planned yet, each stretch into a file that appears whole."""
    stretches = _stretches(files)
    missing = [s for s in stretches if not _shard_path(work, s).is_file()]
    total = sum(map(len, files))
    done = total - sum(s.stop - s.first for s in missing)
    if progress and done:
        progress(done, total)
    for stretch, columns in planned(files, missing, settings, tokenizer, work, workers):
        path = _shard_path(work, stretch)
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, **columns)
        part.rename(path)
        done += stretch.stop - stretch.first
        if progress:
            progress(done, total)


def _join(
    files: list[Annotations], work: Path, out: Path, settings: Settings, tokenizer: Tokenizer
) -> Index:
    """Put the stretches' columns together, one after another, and the index in its place."""
    made = work / "index"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    columns = ColumnWriter(made)
    kinds, reasons = Counter(), Counter()
    sources = [
        {
            "path": source_path.store(f.path, f.folder, settings.root),
            "lines": len(f),
            "examples": 0,
            "rejected": 0,
        }
        for f in files
    ]
    why = ""
    with contextlib.closing(columns), open(made / "rejected.jsonl", "wb") as rejects:
        for stretch in _stretches(files):
            with np.load(_shard_path(work, stretch)) as shard:
                columns.add(shard)
                sources[stretch.source]["examples"] += len(shard["tokens"])
                lines = shard["rejected"].tobytes()
            rejects.write(lines)
            for line in lines.splitlines():
                entry = json.loads(line)
                kinds[entry["kind"]] += 1
                reasons[category(entry["reason"], entry["annotations"])] += 1
                sources[stretch.source]["rejected"] += 1
                why = located(entry["annotations"], entry["line"], entry["reason"])
                log.info("rejected %s", why)
        if not len(columns):
            shutil.rmtree(work)
            raise DataError(
                f"{', '.join(f.path for f in files)}: none of {sum(map(len, files))} examples "
                f"is usable; the last one: {why}"
            )
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "pixel_budget": str(settings.budget),
            "context": settings.context,
            "row_tokens": settings.row_tokens,
            "form": settings.form,
            "tokenizer": fingerprint(tokenizer),
            "window": settings.budget.max_pair_patches,
            "root": settings.root,
            "root_from_index": _from_index(settings.root, out),
            "annotations": sources,
            "examples": len(columns),
            "rejected": dict(sorted(kinds.items())),
            "reasons": dict(reasons.most_common(MOST_REASONS)),
        }
        rows = {k: meta[k] for k in ("pixel_budget", "context", "form", "tokenizer")}
        meta["digest"] = columns.finish(json.dumps(rows))
    (made / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    made.rename(out)
    shutil.rmtree(work)
    return Index(out)


def _from_index(root: str, out: Path) -> str:
    return "" if not root or is_remote(root) else os.path.relpath(root, os.path.abspath(out))
