"""Comments on many streams at once: of files and cameras, or of frames that the caller brings."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from livecc_jax.api.models import Model
from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.ingest import is_live
from livecc_jax.media.live import LiveOptions
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.serving.capacity import make_engine
from livecc_jax.serving.feed import Feed
from livecc_jax.serving.latency import SourceStats
from livecc_jax.serving.names import source_names
from livecc_jax.serving.sinks import JsonLines, Srt, WebVtt
from livecc_jax.serving.source import StreamOutput, WatchedSource
from livecc_jax.serving.watch import Watch
from livecc_jax.stream.engine import Engine
from livecc_jax.timeline.turns import OPENING_FRAMES, stream_prompt

MAX_WAITING = 256  # results that wait for the reader of an iterator


class Streams:
    """Sources that are watched together; `watch` makes it. Use it in a `with` block, which ends them.

    Attributes:
        names: The sources' names, in order.
        sources: The sources by name, each with its `stats()`, `ask(question)` and `close()`.
        engine_watch: The watch that runs the engine.
    """

    def __init__(self, engine_watch: Watch, names: Sequence[str]) -> None:
        self.engine_watch, self.names = engine_watch, tuple(names)
        self.sources: dict[str, WatchedSource] = {}
        self._feed: Feed[tuple[WatchedSource, StreamOutput]] | None = None
        self._iterated = False

    def __iter__(self) -> Iterator[tuple[str, StreamOutput]]:
        """Yields (name of the source, its `SpokenTurn` or `Answer`) until every source is over.

        Results come as they are computed. When 256 of them wait, files are not read on, and the oldest
        of a live source is dropped. A source that fails ends alone: `failures` says why.
        """
        if self._feed is None:
            raise ConfigError(
                "the results of these streams go to on_output, so they cannot be iterated"
            )
        self._iterated = True
        for source, output in self._feed:
            yield source.name, output

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until every source is over. Returns False if that took longer than `timeout` seconds.

        Results that nobody has begun to iterate by then are dropped; files in `out` have them all.
        """
        if self._feed is not None and not self._iterated:
            self._feed.close()  # files would wait for its reader
        return self.engine_watch.wait(timeout)

    def stats(self) -> dict[str, SourceStats]:
        """Returns state, latency and counts of each source, by name."""
        return {name: source.stats() for name, source in self.sources.items()}

    @property
    def failures(self) -> dict[str, BaseException]:
        """What ended the sources that have failed, by name."""
        return {n: s.failure for n, s in self.sources.items() if s.failure is not None}

    def close(self) -> None:
        """Ends every source. The engine step that runs ends first; turns that wait are dropped."""
        self.engine_watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_feed(self) -> None:
        """Makes the results readable with `for`; called before any source is opened."""
        self._feed = self.engine_watch.outputs(MAX_WAITING)

    def end_when_over(self) -> None:
        """Ends the iteration once every source is over, which the watch alone would outlive."""
        if self._feed is not None:
            threading.Thread(target=self._close_when_over, name="end of streams", daemon=True).start()

    def _close_when_over(self) -> None:
        try:
            self.engine_watch.wait()
        except Exception:  # the feed raises it to its reader
            return
        self.engine_watch.close()


def watch(
    model: Model,
    sources: Mapping[str, str | int | Path] | Sequence[str | int | Path],
    *,
    query: str | Sequence[str] = "",
    title: str = "",
    out: str | Path | None = None,
    cache: Literal["full", "rolling"] = "rolling",
    cache_precision: Literal["weights", "int8"] = "weights",
    batch: int = 16,
    pace: Literal["fast", "own"] = "fast",
    retries: int | None = None,
    pixel_budget: str | int | None = None,
    rules: MediaRules = DEFAULT,
    warm_up: Sequence[tuple[int, int]] = (),
    on_output: Callable[[str, StreamOutput], None] | None = None,
    **decoding: Any,
) -> Streams:
    """Comments on many sources at once, a batch of their turns in each step of one engine.

    A source that stalls, breaks or ends disturbs no other.

    Args:
        model: What `open_model` returned.
        sources: Video files, cameras' numbers or addresses; a mapping gives them names.
        query: What to do, in words: one for all sources, or one for each.
        title: Title of the videos.
        out: Folder that receives NAME.jsonl, NAME.vtt and NAME.srt for each source.
        cache: What stays in a context, as in `comment`.
        cache_precision: Precision of keys and values.
        batch: Largest number of turns in an engine step.
        pace: How files are read: as fast as they are decoded, or as if they were live ("own").
        retries: Attempts without a picture after which a live source is given up; None is never.
        pixel_budget: Largest number of vision tokens of a frame pair, or "reference", which needs
            files; None is the model's.
        rules: How videos are read.
        warm_up: Sizes of pictures, (height, width), to compile for before any source is opened.
        on_output: Called with the source's name and each result, by the decoding thread, instead of
            iterating.
        **decoding: Fields of `StreamOptions`, as in `comment`.

    Returns:
        The streams, to iterate and to close.

    Raises:
        ConfigError: An option is unknown or out of range, there is no source, or a live source is given
            the budget "reference".
        CheckpointError, TokenizerError: The model cannot be loaded.

    Example:
        >>> with livecc_jax.watch(model, {"door": "rtsp://door/live", "yard": 0}) as streams:
        ...     for name, turn in streams:
        ...         print(name, turn.start, turn.words)
    """
    if retries is not None and retries < 0:
        raise ConfigError(f"retries must not be negative, not {retries}")
    options = model.stream_options(**decoding)
    budget = model.budget(pixel_budget)
    named = isinstance(sources, Mapping)
    paths = [str(source) for source in (sources.values() if named else sources)]
    if not paths:
        raise ConfigError("there is no source to watch")
    for source in paths:
        if budget.tokens is None and is_live(source):
            raise ConfigError(f"{source}: a live source needs a fixed pixel budget, not `reference`")
    sizes = [budget.size(*size, OPENING_FRAMES) for size in warm_up]
    names = list(map(str, sources)) if named else source_names(paths)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
    prompts = [stream_prompt(text, title) for text in query_per_source(query, len(names))]
    engine = make_engine(model.load(), options, budget, prompts, batch, cache, cache_precision)
    for size, prompt in itertools.product(sizes, {*prompts}):
        engine.warm_up(size, prompt, options)
    live = LiveOptions(retries=retries, retry_first=True)
    streams = Streams(Watch(engine), names)
    if on_output is None:
        streams.open_feed()
    try:
        for source, name, prompt in zip(paths, names, prompts):
            streams.sources[name] = streams.engine_watch.add(
                source, budget, prompt, options, name=name, pace=pace, live=live, rules=rules,
                sinks=_files(Path(out), name) if out else (),
                on_output=on_output and _named(on_output, name),
            )  # fmt: skip
    except BaseException:
        streams.close()
        raise
    streams.end_when_over()
    return streams


def open_engine(
    model: Model,
    streams: int = 8,
    *,
    query: str = "",
    batch: int = 16,
    cache: Literal["full", "rolling"] = "rolling",
    cache_precision: Literal["weights", "int8"] = "weights",
    pixel_budget: str | int | None = None,
    **decoding: Any,
) -> Engine:
    """Opens an engine for many streams of frames that the caller brings.

    `engine.open(query)` starts a stream, `stream.push(frames)` queues a turn of it, and `engine.step()`
    takes the most urgent turns together. Frames are uint8 [F, h, w, 3] at the size of the pixel budget
    (`model.budget().size(height, width, 6)`): six to open, two for each later second.

    Args:
        model: What `open_model` returned.
        streams: Largest number of streams at a time.
        query: The longest query that a stream will have; it decides how much memory there must be.
        batch: Largest number of turns in an engine step.
        cache: What stays in a context, as in `comment`.
        cache_precision: Precision of keys and values.
        pixel_budget: Largest number of vision tokens of a frame pair; None is the model's.
        **decoding: Fields of `StreamOptions`, as in `comment`.

    Raises:
        ConfigError: An option is unknown or out of range.
        CheckpointError, TokenizerError: The model cannot be loaded.

    Example:
        >>> engine = livecc_jax.open_engine(model, streams=2)
        >>> left, right = engine.open("Comment."), engine.open("Comment.")
        >>> left.push(left_frames), right.push(right_frames)
        >>> for stream, turn in engine.step():
        ...     print("left" if stream is left else "right", turn.words)
    """
    if streams < 1:
        raise ConfigError(f"an engine needs room for at least 1 stream, not {streams}")
    options, budget = model.stream_options(**decoding), model.budget(pixel_budget)
    prompts = [query] * streams
    return make_engine(model.load(), options, budget, prompts, batch, cache, cache_precision)


def query_per_source(query: str | Sequence[str], sources: int) -> list[str]:
    """Returns a query for each source. Raises ConfigError unless there are none, one, or one each."""
    queries = [query] if isinstance(query, str) else list(query)
    if len(queries) not in (0, 1, sources):
        raise ConfigError(f"there are {len(queries)} queries for {sources} sources")
    return queries if len(queries) == sources else (queries or [""]) * sources


def _files(folder: Path, name: str) -> list[JsonLines | WebVtt | Srt]:
    if not name or Path(name).name != name:
        raise MediaError(f"{name!r} cannot be the name of a source: it names its files too")
    kinds = (JsonLines, "jsonl"), (WebVtt, "vtt"), (Srt, "srt")
    return [kind(folder / f"{name}.{suffix}") for kind, suffix in kinds]


def _named(on_output: Callable[[str, StreamOutput], None], name: str) -> Callable[[StreamOutput], None]:
    return lambda output: on_output(name, output)
