"""Indexes one chunk of lines of an annotation file: the unit of work of building an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from livecc_jax.data.annotations.datasets import Annotations
from livecc_jax.data.annotations.rejections import with_location
from livecc_jax.data.examples.caching_tokenizer import CachingTokenizer
from livecc_jax.data.examples.encode import EncodedExample, encode_example
from livecc_jax.data.examples.media_files import FileIdentity, MediaFiles
from livecc_jax.data.examples.split import ExampleSlice, split_example
from livecc_jax.data.files import paths
from livecc_jax.data.files.cache import DEFAULT_GB, FileCache
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.timestamps import TimestampCache
from livecc_jax.data.index import codec
from livecc_jax.data.index.column_writer import Shard
from livecc_jax.data.index.columns import PROVISIONAL
from livecc_jax.errors import ExampleError, MediaError
from livecc_jax.families import DEFAULT as DEFAULT_FAMILY
from livecc_jax.families import FAMILIES
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.video import VideoInfo
from livecc_jax.redact import displayable
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Example, StreamExample

REMOTE_THREADS = 16  # requests for files in buckets that are in flight together
NOT_READ = FileIdentity(0, 0, 0, 0, 0, 0, 0)
NO_RESERVE = (0, 0, 0)

LineExamples = list[tuple[ExampleSlice | None, EncodedExample]]  # the slices of one line
# The conversation as text, its examples, and the number of its words that were put in order.
LineResult = tuple[bytes, LineExamples, int]


@dataclass(frozen=True)
class IndexSettings:
    """How examples are indexed; see `build_index` for the fields."""

    budget: PixelBudget
    context: bool
    row_tokens: int
    form: str
    provisional: bool
    root: str
    timestamps: str
    cache: str = ""
    cache_gb: float = DEFAULT_GB
    rules: MediaRules = DEFAULT
    media_root: MediaRoot | None = None
    silent_tail: int = 0
    family: str = DEFAULT_FAMILY.model_type


@dataclass(frozen=True)
class LineChunk:
    """Lines first, ..., stop - 1 of annotation file number `source`."""

    source: int
    first: int
    stop: int


class ChunkIndexer:
    """Indexes chunks of lines; each process has one.

    Args:
        settings: Settings of the index.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, settings: IndexSettings, tokenizer: Tokenizer) -> None:
        self.settings = settings
        self._template = ChatTemplate(CachingTokenizer(tokenizer), FAMILIES[settings.family])
        timestamps = TimestampCache(settings.timestamps) if settings.timestamps else None
        cache = FileCache.from_gigabytes(settings.cache, settings.cache_gb)
        self._files = MediaFiles(
            timestamps,
            settings.provisional,
            cache,
            rules=settings.rules,
            media_root=settings.media_root,
        )

    def index(self, file: Annotations, chunk: LineChunk) -> dict[str, np.ndarray]:
        """Indexes the examples of a chunk.

        Returns:
            The columns by name. `rejected` holds the lines for rejected.jsonl as bytes, `reordered` how
            many words were put in order, and in how many lines.
        """
        shard = Shard()
        rejected: list[tuple[int, Exception]] = []
        reordered = np.zeros(2, np.int64)
        for line, result in self._results(file, chunk):
            if isinstance(result, Exception):
                rejected.append((line, result))
                continue
            text, examples, reordered_words = result
            try:
                for part, example in examples:
                    self._add(shard, chunk.source, line, part, example, file.folder, text)
                reordered += reordered_words, reordered_words > 0
            except (ExampleError, MediaError) as error:
                rejected.append((line, error))
        lines = [
            json.dumps(
                {
                    "annotations": displayable(file.path),
                    "line": line + 1,
                    "kind": type(error).__name__,
                    "reason": str(error),
                },
                ensure_ascii=False,
            )
            for line, error in rejected
        ]
        # A path that is not UTF-8 holds half characters, which stay escaped as in JSON.
        text = "".join(line + "\n" for line in lines).encode(errors="backslashreplace")
        return shard.arrays() | {"rejected": np.frombuffer(text, np.uint8), "reordered": reordered}

    def _results(
        self, file: Annotations, chunk: LineChunk
    ) -> Iterator[tuple[int, LineResult | Exception]]:
        """Yields each line's number with its result, or its error."""
        lines = range(chunk.first, chunk.stop)
        values = list(file.raw_conversations(chunk.first, chunk.stop))

        def index_line(line: int, value: Any) -> LineResult | Exception:
            try:
                example = file.parse(line, value)
                # Only a provisional record stores the conversation itself.
                text = _conversation_text(value) if self.settings.provisional else b""
                return text, self._encode_line(example), getattr(example, "reordered", 0)
            except ExampleError as error:
                return ExampleError(with_location(file.path, line + 1, str(error)))
            except MediaError as error:
                return error

        if paths.is_remote(file.path) or any(map(_has_remote_media, values)):
            with ThreadPoolExecutor(REMOTE_THREADS) as pool:
                yield from zip(lines, pool.map(index_line, lines, values))
        else:
            yield from zip(lines, map(index_line, lines, values))

    def _encode_line(self, example: Example) -> LineExamples:
        """Counts an example, and splits a streaming one that is longer than a row."""
        s = self.settings
        options = {
            "form": s.form,
            "files": self._files,
            "count_only": True,
            "silent_tail": s.silent_tail,
        }
        encoded = encode_example(example, self._template, s.budget, s.context, **options)
        max_tokens = s.row_tokens - self._reserve(encoded)[0]
        if encoded.tokens <= max_tokens:
            return [(None, encoded)]
        if not isinstance(example, StreamExample):
            raise ExampleError(f"takes {encoded.tokens} tokens, more than the {max_tokens} of a row")
        return list(
            split_example(example, encoded, self._template, s.budget, s.context, max_tokens, **options)
        )

    def _reserve(self, example: EncodedExample) -> tuple[int, int, int]:
        """Returns tokens, targets and windows that a provisional example may need in addition.

        Once its files are read, a clip may have one turn more than its annotation lets expect, and
        words may move to another turn.
        """
        if not self.settings.provisional or not example.media:
            return NO_RESERVE
        return 32 + example.media[0].tokens_per_pair, 8, 1

    def _add(
        self,
        shard: Shard,
        source: int,
        line: int,
        part: ExampleSlice | None,
        example: EncodedExample,
        folder: str,
        conversation: bytes,
    ) -> None:
        kind, text = codec.encode(example)
        provisional = self.settings.provisional
        files = []
        for media in example.media:
            is_video = isinstance(media.source, VideoInfo)
            path = media.source.path if is_video else media.source
            identity = NOT_READ if provisional else self._files.identity(path, is_video)
            files.append((paths.relative_to_root(path, folder, self.settings.root), identity))
        if provisional and example.media:
            kind, text = PROVISIONAL, conversation
        windows = example.windows(self.settings.budget.max_pair_patches)
        sizes = example.tokens, example.targets, windows
        sizes = tuple(a + b for a, b in zip(sizes, self._reserve(example)))
        shard.add(source, line, part, kind, example.media, sizes, text, files)


def _conversation_text(value: Any) -> bytes:
    # Fields that the parser ignores may hold lone surrogates; they stay escaped as in JSON.
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _has_remote_media(value: Any) -> bool:
    """Returns whether a conversation shows a file in a bucket."""
    try:
        items = [item for turn in value for item in turn["content"] if isinstance(item, dict)]
    except (TypeError, KeyError):
        return False
    return any(paths.is_remote(str(item.get(key, ""))) for item in items for key in ("video", "image"))
