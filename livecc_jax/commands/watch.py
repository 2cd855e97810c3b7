"""`livecc watch`: comment on many videos, cameras and network streams at once."""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import logging
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from livecc_jax.commands.options import (
    add_cache_precision_option,
    add_decoding_options,
    add_device_options,
    add_media_options,
    add_timeline_options,
    load_stream_model,
    media_rules,
    stream_options,
)
from livecc_jax.commands.signals import Terminated, raise_if_stopped
from livecc_jax.redact import HIDDEN, RedactingFilter, redact_address

if TYPE_CHECKING:
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.serving.latency import SourceStats
    from livecc_jax.serving.source import StreamOutput, WatchedSource
    from livecc_jax.serving.watch import Watch
    from livecc_jax.stream.engine import Engine
    from livecc_jax.stream.model import StreamModel

REDRAW_SECONDS = 0.5
MAX_LINES = 10_000  # lines that wait while the terminal takes none
UNLIMITED = 10**6  # columns or lines


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "watch", help="comment on many live sources at once", description=__doc__
    )
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="source",
        help="video file, camera number (0 or camera:0), or rtsp:// or http:// address",
    )
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        help="what to do, in words; once for all sources, or once for each source in order",
    )
    parser.add_argument("--title", default="", help="title of the videos")
    parser.add_argument("--out", metavar="DIR", help="write NAME.jsonl, .vtt and .srt for each source")
    add_timeline_options(parser)
    add_media_options(parser)
    parser.add_argument(
        "--cache",
        choices=("full", "rolling"),
        default="rolling",
        help="what stays in a context, as in `livecc stream` (default: rolling)",
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "own"),
        default="fast",
        help="how files are read: as fast as they are decoded, or as if they were live (default: fast)",
    )
    parser.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="give up a live source after so many attempts without a picture (default: never)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=16,
        metavar="N",
        help="largest number of turns in an engine step (default 16)",
    )
    add_decoding_options(parser)
    add_cache_precision_option(parser, "the engine")
    add_device_options(parser)
    parser.add_argument(
        "--warm-up",
        action="append",
        default=[],
        metavar="WIDTHxHEIGHT",
        help="compile for pictures of this size before any source is opened; repeat for more",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Watches until every source is over, or until interrupted."""
    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.errors import ConfigError
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.live import LiveOptions
    from livecc_jax.media.sources import is_live
    from livecc_jax.serving.sinks import JsonLines, Srt, WebVtt
    from livecc_jax.serving.watch import Watch
    from livecc_jax.timeline.turns import OPENING_FRAMES, stream_prompt

    if args.retries is not None and args.retries < 0:
        raise ConfigError(f"--retries must not be negative, not {args.retries}")
    checkpoint = open_checkpoint(args.model)
    options, rules = stream_options(args, checkpoint), media_rules(args)
    budget = PixelBudget.parse(args.pixel_budget or checkpoint.livecc.pixel_budget)
    for source in args.sources:
        if budget.tokens is None and is_live(source):
            raise ConfigError(f"{source}: a live source needs a fixed pixel budget, not `reference`")
    sizes = [budget.size(*parse_size(text), OPENING_FRAMES) for text in args.warm_up]
    names = source_names(args.sources)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
    queries = query_per_source(args.query, len(names))
    prompts = [stream_prompt(query, args.title) for query in queries]
    model = load_stream_model(args, checkpoint)
    engine = make_engine(model, options, budget, prompts, args.batch, args.cache, args.cache_precision)
    for size, prompt in itertools.product(sizes, {*prompts}):
        engine.warm_up(size, prompt, options)
    screen, terminated = Screen(sys.stdout), False
    live = LiveOptions(retries=args.retries, retry_first=True)
    sink_kinds = (JsonLines, "jsonl"), (WebVtt, "vtt"), (Srt, "srt")
    with logs_as_lines(screen.lines, dict(zip(args.sources, names))), Watch(engine) as watch:
        sources = [
            watch.add(
                source, budget, prompt, options, name=name, pace=args.pace, live=live,
                sinks=[
                    kind(Path(args.out) / f"{name}.{suffix}") for kind, suffix in sink_kinds if args.out
                ],
                on_output=screen.output_printer(name), rules=rules,
            )
            for source, name, prompt in zip(args.sources, names, prompts)
        ]  # fmt: skip
        try:
            while not watch.wait(REDRAW_SECONDS):
                screen.show(watch, sources)
                raise_if_stopped()
        except Terminated:
            terminated = True
        except KeyboardInterrupt:
            pass  # the usual way to stop watching cameras
        watch.close()
        screen.show(watch, sources, last=True)
    if terminated:
        return 128 + signal.SIGTERM
    return 2 if any(source.stats().state == "failed" for source in sources) else 0


def query_per_source(queries: list[str], sources: int) -> list[str]:
    """Returns a query for each source. Raises ConfigError unless there are none, one, or one each."""
    from livecc_jax.errors import ConfigError

    if len(queries) not in (0, 1, sources):
        raise ConfigError(f"--query is given {len(queries)} times for {sources} sources")
    return queries if len(queries) == sources else (queries or [""]) * sources


def parse_size(text: str) -> tuple[int, int]:
    """Returns `1920x1080` as (height, width). Raises ConfigError for any other form."""
    from livecc_jax.errors import ConfigError

    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise ConfigError(f"--warm-up {text!r} is not of the form WIDTHxHEIGHT, such as 1920x1080")
    return int(match[2]), int(match[1])


def make_engine(
    model: StreamModel,
    options: StreamOptions,
    budget: PixelBudget,
    prompts: Sequence[str],
    max_batch: int,
    cache: str,
    cache_precision: str,
) -> Engine:
    """Returns an engine with room for the context of each source, equally many per device group."""
    from livecc_jax.stream.capacity import rolling_capacity
    from livecc_jax.stream.engine import Engine
    from livecc_jax.stream.history import FULL, ROLLING
    from livecc_jax.stream.options import EngineOptions

    context_size, pool_tokens = 0, options.context
    if cache == "rolling":
        query_tokens = max(len(model.tokenizer.encode(prompt)) for prompt in prompts)
        context_size, pool_tokens = rolling_capacity(
            ROLLING, budget.max_pair_patches // 4, query_tokens, options.max_new_tokens
        )
    groups, sources = model.shards, len(prompts)
    rounded_up = -(-sources // groups) * groups
    return Engine(
        model,
        EngineOptions(
            max_conversations=sources,
            max_batch=min(-(-max_batch // groups) * groups, rounded_up),
            pool_tokens=rounded_up * pool_tokens,
            eviction=ROLLING if cache == "rolling" else FULL,
            max_new_tokens=options.max_new_tokens,
            context_size=context_size,
            cache_precision=cache_precision,
        ),
    )


def source_names(sources: Sequence[str]) -> list[str]:
    """Returns a short unique name for each source, fit for a file name and without passwords."""
    from livecc_jax.media.sources import camera_number, is_live

    names: list[str] = []
    for source in sources:
        camera = camera_number(source)
        if camera is not None:
            name = f"camera-{camera}"
        elif is_live(source):
            place = re.split(r"[?#]", redact_address(source).split("://", 1)[1])[0]
            host, slash, path = place.removeprefix(f"{HIDDEN}@").partition("/")
            name = host.lower() + slash + path
        else:
            name = Path(source).stem
        name = re.sub(r"[^\w.]+", "-", name).strip("-.") or "source"
        unique, number = name, 1
        while unique in names:
            number += 1
            unique = f"{name}-{number}"
        names.append(unique)
    return names


class Screen:
    """A table that is redrawn below the lines that scroll by; plain lines where there is no terminal.

    Args:
        out: Where to write.

    Attributes:
        lines: Lines to print at the next redraw; any thread may append.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._controls = getattr(out, "write_controls", out.write)  # past the filter of `safe_output`
        self._is_terminal = out.isatty()
        self._drawn = 0
        self.lines: collections.deque[str] = collections.deque(maxlen=MAX_LINES)

    def output_printer(self, name: str) -> Callable[[StreamOutput], None]:
        """Returns a callback that prints the results of a source, unless there is a table."""
        from livecc_jax.stream.turn import Answer

        def print_output(output: StreamOutput) -> None:
            if not self._is_terminal and not isinstance(output, Answer) and output.words:
                self.lines.append(f"{name}: {output.start:.1f} - {output.stop:.1f} {output.words}")

        return print_output

    def show(self, watch: Watch, sources: Sequence[WatchedSource], last: bool = False) -> None:
        """Prints new lines, and the table; without a terminal only the last table.

        Args:
            watch: The watch.
            sources: Its sources.
            last: Whether this is the last call.
        """
        from livecc_jax.serving.table import table

        new = [self.lines.popleft() for _ in range(len(self.lines))]
        rows: list[str] = []
        if self._is_terminal or last:
            width, height = shutil.get_terminal_size()
            stats = [source.stats() for source in sources]
            rows = table(
                stats,
                summary(watch, stats),
                width - 1 if self._is_terminal else UNLIMITED,
                UNLIMITED if last else height,
            )
        if self._drawn:
            # Move the cursor up so many lines, and clear what follows.
            self._controls(f"\x1b[{self._drawn}F\x1b[J")
        self._out.writelines(f"{line}\n" for line in (*new, *rows))
        self._out.flush()
        self._drawn = len(rows) if self._is_terminal else 0


def summary(watch: Watch, stats: Sequence[SourceStats]) -> str:
    """Returns the table's last line: states of all sources, engine steps and memory."""
    from livecc_jax.serving.latency import device_bytes, host_bytes
    from livecc_jax.serving.table import gigabytes

    counts = collections.Counter(s.state for s in stats)
    states = ", ".join(f"{n} {state}" for state, n in counts.most_common())
    memory = f"device {gigabytes(device_bytes())}, host {gigabytes(host_bytes())}"
    return f"{states}; {watch.steps_per_second:.1f} steps/s; {memory}"


@contextlib.contextmanager
def logs_as_lines(lines: collections.deque[str], names: dict[str, str]) -> Iterator[None]:
    """Appends log messages to `lines`, with addresses, without their passwords, replaced by names.

    Args:
        lines: Receives the messages.
        names: Name of each source.
    """
    # Messages have an address without its password, which several sources may have in common.
    times_shown = collections.Counter(map(redact_address, names))
    name_of = {
        shown: name
        for source, name in names.items()
        if "://" in source and times_shown[shown := redact_address(source)] == 1
    }

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record)
            for address, name in name_of.items():
                text = text.replace(address, name)
            lines.append(text)

    handler, logger = Handler(), logging.getLogger("livecc_jax")
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
