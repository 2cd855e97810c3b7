"""The index: every example of some annotation files, planned once, as columns on disk.

Columns are memory-mapped, so an index of millions of examples opens at once (docs/formats.md).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.columns import COLUMNS, WIDTHS, ColumnWriter, Entry
from livecc_jax.data.plan import ExamplePlan, plan_example
from livecc_jax.data.records import AnnotationFile
from livecc_jax.data.split import Piece, cut, split_example
from livecc_jax.errors import DataError, ExampleError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.tokenizer import Tokenizer, fingerprint
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Example, StreamExample

log = logging.getLogger(__name__)

FORMAT, VERSION = "livecc-index", 1
BATCH = 1024


Planned = list[tuple[Piece | None, ExamplePlan]]  # the pieces of one line


def build_index(
    annotations: Sequence[str | Path],
    out: str | Path,
    tokenizer: Tokenizer,
    budget: PixelBudget,
    *,
    context: bool = True,
    row_tokens: int = 32768,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Plan every example and write the index.

    Args:
        annotations: JSONL files.
        out: directory to make.
        tokenizer: the model's.
        budget: pixels a frame.
        context: whether title or previous commentary is shown.
        row_tokens: streaming examples that take more are split at turn boundaries.
        overwrite: replace an index that is there.
        threads: how many examples are planned at once; the machine's cores by default.
        progress: called with (examples done, examples in all).

    Raises:
        DataError: a file is malformed, nothing in it is usable, or `out` exists.
    """
    out = Path(out)
    if out.exists() and not (overwrite and (out / "meta.json").is_file()):
        raise DataError(f"{out}: exists already" + (" and is no index" if overwrite else ""))
    files = [AnnotationFile(path) for path in annotations]
    total, why = sum(map(len, files)), ""
    template = ChatTemplate(tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    columns = ColumnWriter(work)
    try:
        rejected: dict[str, int] = {}
        with (
            open(work / "rejected.jsonl", "w", encoding="utf-8") as reject_file,
            ThreadPoolExecutor(threads or os.cpu_count()) as pool,
        ):

            def plan(item: tuple[int, int, Any]) -> Planned | Exception:
                example = item[2]
                if isinstance(example, Exception):
                    return example
                try:
                    whole = plan_example(example, template, budget, context)
                    if whole.tokens <= row_tokens or not isinstance(example, StreamExample):
                        return [(None, whole)]
                    return list(split_example(example, whole, template, budget, context, row_tokens))
                except (ExampleError, MediaError) as error:
                    return error

            done = 0
            for batch in _batches(files):
                for (source, line, _), result in zip(batch, pool.map(plan, batch)):
                    if isinstance(result, Exception):
                        kind = type(result).__name__
                        rejected[kind] = rejected.get(kind, 0) + 1
                        record = {
                            "annotations": str(files[source].path),
                            "line": line + 1,
                            "kind": kind,
                            "reason": str(result),
                        }
                        reject_file.write(json.dumps(record, ensure_ascii=False) + "\n")
                        why = f"{files[source].path} line {line + 1}: {result}"
                        log.info("rejected %s", why)
                    else:
                        for piece, part in result:
                            columns.add(source, line, piece, part, budget.max_pair_patches)
                done += len(batch)
                if progress:
                    progress(done, total)
        if not columns.size:
            raise DataError(
                f"{', '.join(map(str, annotations))}: none of {total} examples is usable; "
                f"the last one: {why}"
            )
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "pixel_budget": str(budget),
            "context": context,
            "row_tokens": row_tokens,
            "tokenizer": fingerprint(tokenizer),
            "window": budget.max_pair_patches,
            "annotations": [{"path": str(f.path.resolve()), "lines": len(f)} for f in files],
            "examples": columns.size,
            "rejected": rejected,
        }
        columns.finish()
        (work / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        work.rename(out)
    finally:
        columns.close()
        shutil.rmtree(work, ignore_errors=True)
    return Index(out)


def _batches(files: list[AnnotationFile]) -> Iterator[list[tuple[int, int, Example | ExampleError]]]:
    """(file, line, example or why there is none), some at a time: reading stays just ahead."""
    batch: list[tuple[int, int, Example | ExampleError]] = []
    for number, file in enumerate(files):
        for line in range(len(file)):
            try:
                batch.append((number, line, file[line]))
            except ExampleError as error:
                batch.append((number, line, error))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


class Index:
    """An index on disk.

    Raises:
        DataError: it is missing, of another version, or a column does not fit the others.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        meta_path = self.path / "meta.json"
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{self.path}: is not an index (no meta.json); make one with `livecc index`"
            ) from error
        except ValueError as error:
            raise DataError(f"{meta_path}: is not readable JSON") from error
        known = isinstance(meta, dict) and meta.get("format") == FORMAT
        if not known or meta.get("version") != VERSION:
            raise DataError(f"{meta_path}: is not a {FORMAT} of version {VERSION}; make it again")
        try:
            self.budget = PixelBudget.parse(meta["pixel_budget"])
            self.context: bool = meta["context"]
            self.tokenizer: str = meta["tokenizer"]
            self.window: int = meta["window"]
            self.rejected: dict[str, int] = meta["rejected"]
            self._annotations = [a["path"] for a in meta["annotations"]]
            n = int(meta["examples"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{meta_path}: lacks a field or holds a wrong one ({error})") from error
        self._files: dict[int, AnnotationFile] = {}
        for name, dtype in COLUMNS.items():
            column = self.path / f"{name}.npy"
            try:
                values = np.load(column, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise DataError(f"{column}: cannot be read as an array") from error
            if values.dtype != dtype or values.shape[1:] != ((WIDTHS[name],) if name in WIDTHS else ()):
                raise DataError(
                    f"{column}: holds {values.dtype} of shape {values.shape}, "
                    f"not rows of {WIDTHS.get(name, 1)} {np.dtype(dtype)}"
                )
            setattr(self, f"_{name}", values)
        for name in COLUMNS:
            expected = {
                "frame_starts": n + 1,
                "media_starts": n + 1,
                "frame_times_us": int(self._frame_starts[-1]),
                "media": int(self._media_starts[-1]),
            }.get(name, n)
            if len(getattr(self, f"_{name}")) != expected:
                raise DataError(f"{self.path / name}.npy: does not hold {expected} rows")

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def digest(self) -> str:
        """Tells apart indexes that would give other rows."""
        total = hashlib.sha256(f"{self.budget} {self.context} {self.tokenizer}".encode())
        for name in COLUMNS:
            total.update(getattr(self, f"_{name}").tobytes())
        return total.hexdigest()[:16]

    @property
    def tokens(self) -> np.ndarray:
        """int32 [n]."""
        return self._tokens

    @property
    def targets(self) -> np.ndarray:
        """int32 [n]."""
        return self._targets

    @property
    def windows(self) -> np.ndarray:
        """int32 [n]."""
        return self._windows

    @property
    def pieces(self) -> int:
        """How many examples are pieces of longer ones."""
        return int(np.count_nonzero(self._pieces[:, 0] >= 0))

    def where(self, i: int) -> tuple[str, int]:
        """Annotation file and line number (from 1) of example i."""
        return self._annotations[self._source[i]], int(self._line[i]) + 1

    def entry(self, i: int) -> Entry:
        """What is known of example i."""
        frames = slice(self._frame_starts[i], self._frame_starts[i + 1])
        media = slice(self._media_starts[i], self._media_starts[i + 1])
        return Entry(
            int(self._tokens[i]),
            int(self._targets[i]),
            int(self._windows[i]),
            self._frame_times_us[frames],
            self._media[media],
        )

    def example(self, i: int) -> Example:
        """Example i, read from its annotation file. Raises DataError when that has changed."""
        source = int(self._source[i])
        if source not in self._files:
            self._files[source] = AnnotationFile(self._annotations[source])
        example = self._files[source][int(self._line[i])]
        piece = Piece(*self._pieces[i].tolist())
        if piece.start_us < 0 or not isinstance(example, StreamExample):
            return example
        return cut(example, piece)
