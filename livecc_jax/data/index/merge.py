"""Merges the shards of all chunks into an index on disk."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from livecc_jax.bounded_json import parse_json
from livecc_jax.data.annotations.datasets import Annotations
from livecc_jax.data.annotations.rejections import reason_category, with_location
from livecc_jax.data.files.paths import absolute_path, is_remote, relative_to_root
from livecc_jax.data.index.checksums import seal
from livecc_jax.data.index.chunks import IndexSettings, LineChunk
from livecc_jax.data.index.column_writer import ColumnWriter
from livecc_jax.data.index.meta import FORMAT, META, VERSION
from livecc_jax.errors import DataError
from livecc_jax.families import DEFAULT as DEFAULT_FAMILY
from livecc_jax.media.rules import DEFAULT, EARLIER

log = logging.getLogger(__name__)

MAX_REASONS = 50  # categories of rejection reasons that meta.json lists


def merge_shards(
    files: list[Annotations],
    shards: list[tuple[LineChunk, Path]],
    work: Path,
    out: Path,
    settings: IndexSettings,
    tokenizer: str,
) -> None:
    """Concatenates the shards' columns, moves the index to its place and removes the working folder.

    Args:
        files: The annotation files.
        shards: Each chunk of their lines in order, with the .npz file of its columns.
        work: Working folder of the build.
        out: Directory of the index.
        settings: Settings of the index.
        tokenizer: Fingerprint of the tokenizer.

    Raises:
        DataError: No example is usable.
    """
    folder = work / "index"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    columns = ColumnWriter(folder)
    kinds, reasons = Counter(), Counter()
    sources = [
        {
            "path": relative_to_root(f.path, f.folder, settings.root),
            "lines": len(f),
            "examples": 0,
            "rejected": 0,
        }
        for f in files
    ]
    last_reason = ""
    reordered = np.zeros(2, np.int64)
    with contextlib.closing(columns), open(folder / "rejected.jsonl", "wb") as rejected_file:
        for chunk, path in shards:
            source = sources[chunk.source]
            shard = _read_shard(path)
            columns.add(shard)
            source["examples"] += len(shard["tokens"])
            lines = shard["rejected"].tobytes()
            reordered += shard["reordered"]
            rejected_file.write(lines)
            for line in lines.splitlines():
                entry = parse_json(line, half_characters=True)
                kinds[entry["kind"]] += 1
                reasons[reason_category(entry["reason"], entry["annotations"])] += 1
                source["rejected"] += 1
                last_reason = with_location(entry["annotations"], entry["line"], entry["reason"])
                log.info("rejected %s", last_reason)
        if not len(columns):
            shutil.rmtree(work)
            raise DataError(
                f"{', '.join(f.path for f in files)}: none of {sum(map(len, files))} examples "
                f"is usable; the last one: {last_reason}"
            )
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "pixel_budget": str(settings.budget),
            "context": settings.context,
            "row_tokens": settings.row_tokens,
            "form": settings.form,
            **({"silent_tail": settings.silent_tail} if settings.silent_tail else {}),
            **({"family": settings.family} if settings.family != DEFAULT_FAMILY.model_type else {}),
            "media_rules": settings.rules.to_json(),
            "tokenizer": tokenizer,
            "window": settings.budget.max_pair_patches,
            "root": settings.root,
            "root_from_index": _root_from_index(settings.root, out),
            "annotations": sources,
            "examples": len(columns),
            "reordered": {"words": int(reordered[0]), "conversations": int(reordered[1])},
            "rejected": dict(sorted(kinds.items())),
            "reasons": dict(reasons.most_common(MAX_REASONS)),
        }
        row_settings = {k: meta[k] for k in ("pixel_budget", "context", "form", "tokenizer")}
        if settings.silent_tail:  # digests did not name these two
            row_settings["silent_tail"] = settings.silent_tail
        if "family" in meta:
            row_settings["family"] = settings.family
        if settings.rules not in (DEFAULT, EARLIER):
            row_settings["media_rules"] = meta["media_rules"]
        meta["digest"], checksums = columns.finish(json.dumps(row_settings))
    seal(folder, meta, checksums)
    (folder / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    if out.exists():  # moved, not removed: half of it would still look like an index
        shutil.rmtree(work / "replaced", ignore_errors=True)
        out.rename(work / "replaced")
    folder.rename(out)
    shutil.rmtree(work)


def _read_shard(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of a shard; one that is damaged is removed, so that it is made again.

    Raises:
        DataError: The shard is damaged.
    """
    try:
        with np.load(path) as shard:
            return {name: shard[name] for name in shard.files}
    except Exception as error:  # zip files and arrays that are damaged raise errors of any kind
        path.unlink(missing_ok=True)
        raise DataError(
            f"{path}: is damaged and has been removed; run the same command again to make it anew"
        ) from error


def _root_from_index(root: str, out: Path) -> str:
    return "" if not root or is_remote(root) else os.path.relpath(root, absolute_path(str(out)))
