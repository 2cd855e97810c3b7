"""Planning the examples of a stretch of an annotation file: the unit of work of indexing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from livecc_jax.data.annotations.datasets import Annotations
from livecc_jax.data.examples.example import ExamplePlan, plan_example
from livecc_jax.data.examples.media_files import FileFacts, MediaFiles
from livecc_jax.data.examples.split import Piece, split_example
from livecc_jax.data.examples.token_memo import Remembering
from livecc_jax.data.files import source_path
from livecc_jax.data.files.cache import DEFAULT_GB, FileCache
from livecc_jax.data.files.remote import is_remote
from livecc_jax.data.files.timestamps import Timestamps
from livecc_jax.data.index.codec import pack
from livecc_jax.data.index.columns import PROVISIONAL, Shard
from livecc_jax.errors import ExampleError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.video import VideoInfo
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import ChatExample, StreamExample

REMOTE_THREADS = 16  # files of a bucket that are waited for at once
NOT_READ = FileFacts(0, 0, 0, 0, 0, 0, 0)
NO_SLACK = (0, 0, 0)

Planned = list[tuple[Piece | None, ExamplePlan]]  # the pieces of one line


@dataclass(frozen=True)
class Settings:
    """How examples are planned; see `build_index`."""

    budget: PixelBudget
    context: bool
    row_tokens: int
    form: str
    provisional: bool
    root: str
    timestamps: str
    cache: str = ""
    cache_gb: float = DEFAULT_GB


@dataclass(frozen=True)
class Stretch:
    """Lines first, ..., stop - 1 of annotation file `source`."""

    source: int
    first: int
    stop: int


class Planner:
    """Plans stretches; one a process."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self.settings = settings
        self._template = ChatTemplate(Remembering(tokenizer))
        timestamps = Timestamps(settings.timestamps) if settings.timestamps else None
        cache = FileCache.of(settings.cache, settings.cache_gb)
        self._files = MediaFiles(timestamps, settings.provisional, cache)

    def plan(self, file: Annotations, stretch: Stretch) -> dict[str, np.ndarray]:
        """The columns of a stretch; `rejected` holds the lines of rejected.jsonl as bytes."""
        shard, rejected = Shard(), []
        for line, result in self._results(file, stretch):
            if isinstance(result, Exception):
                rejected.append((line, result))
                continue
            raw, planned = result
            try:
                for piece, plan in planned:
                    self._add(shard, stretch.source, line, piece, plan, file.folder, raw)
            except (ExampleError, MediaError) as error:
                rejected.append((line, error))
        lines = [
            json.dumps(
                {
                    "annotations": file.path,
                    "line": line + 1,
                    "kind": type(error).__name__,
                    "reason": str(error),
                },
                ensure_ascii=False,
            )
            for line, error in rejected
        ]
        text = "".join(line + "\n" for line in lines).encode()
        return shard.arrays() | {"rejected": np.frombuffer(text, np.uint8)}

    def _results(
        self, file: Annotations, stretch: Stretch
    ) -> Iterator[tuple[int, tuple[bytes, Planned] | Exception]]:
        lines = range(stretch.first, stretch.stop)
        raws = list(file.raws(stretch.first, stretch.stop))

        def work(line: int, raw: Any) -> tuple[bytes, Planned] | Exception:
            try:
                example = file.parse(line, raw)
                # Only a provisional entry needs the conversation itself, as text.
                kept = _text(raw) if self.settings.provisional else b""
                return kept, self._plan(example)
            except ExampleError as error:
                return ExampleError(located(file.path, line + 1, str(error)))
            except MediaError as error:
                return error

        if is_remote(file.path) or any(map(_names_remote, raws)):
            with ThreadPoolExecutor(REMOTE_THREADS) as pool:
                yield from zip(lines, pool.map(work, lines, raws))
        else:
            yield from zip(lines, map(work, lines, raws))

    def _plan(self, example: StreamExample | ChatExample) -> Planned:
        s = self.settings
        how = {"form": s.form, "files": self._files, "count": True}
        whole = plan_example(example, self._template, s.budget, s.context, **how)
        room = s.row_tokens - self._slack(whole)[0]
        if whole.tokens <= room:
            return [(None, whole)]
        if not isinstance(example, StreamExample):
            raise ExampleError(f"takes {whole.tokens} tokens, more than the {room} of a row")
        return list(split_example(example, whole, self._template, s.budget, s.context, room, **how))

    def _slack(self, plan: ExamplePlan) -> tuple[int, int, int]:
        """Tokens, targets and windows that an example may take more once its files are read.

        A clip may have a turn more than its annotation lets expect, and words may move to another turn.
        """
        if not self.settings.provisional or not plan.media:
            return NO_SLACK
        return 32 + plan.media[0].patches_per_pair // 4, 8, 1

    def _add(
        self,
        shard: Shard,
        source: int,
        line: int,
        piece: Piece | None,
        plan: ExamplePlan,
        folder: str,
        raw: bytes,
    ) -> None:
        kind, text = pack(plan)
        files = []
        for media in plan.media:
            video = isinstance(media.source, VideoInfo)
            path = media.source.path if video else media.source
            facts = NOT_READ if self.settings.provisional else self._files.facts(path, video)
            files.append((source_path.store(path, folder, self.settings.root), facts))
        if self.settings.provisional and plan.media:
            kind, text = PROVISIONAL, raw
        need = plan.tokens, plan.targets, plan.windows(self.settings.budget.max_pair_patches)
        need = tuple(a + b for a, b in zip(need, self._slack(plan)))
        shard.add(source, line, piece, kind, plan.media, need, text, files)


def _text(raw: Any) -> bytes:
    # What the parser ignores may hold halves of characters; they stay as JSON spells them.
    try:
        return json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(raw, separators=(",", ":")).encode()


def _names_remote(raw: Any) -> bool:
    """Whether a conversation shows something that lies in a bucket."""
    try:
        items = [item for turn in raw for item in turn["content"] if isinstance(item, dict)]
    except (TypeError, KeyError):
        return False
    return any(is_remote(str(item.get(key, ""))) for item in items for key in ("video", "image"))


def located(path: str, line: int, reason: str) -> str:
    """A reason that names annotation file and line (from 1), whether or not it did before."""
    return reason if reason.startswith(f"{path} line {line}: ") else f"{path} line {line}: {reason}"


def category(reason: str, path: str) -> str:
    """What a reason says whatever the file and the numbers: for counting.

    Args:
        reason: the sentence.
        path: of the annotation file.
    """
    text = reason.removeprefix(path)
    text = re.sub(r"^ line \d+: ", "", text)
    text = re.sub(r"^\S*[/\\.]\S*: ", "", text)  # the name of a video
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)", "_", text)
    return re.sub(r"\d+(\.\d+)?", "#", text)
