"""`livecc watch`: comment on many videos, cameras and network streams at once."""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import urlsplit

from livecc_jax.commands.options import (
    add_cache_precision,
    add_decoding_options,
    add_device_options,
    add_timeline_options,
    decoding_options,
    load_stream_model,
)

if TYPE_CHECKING:
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.serving.watch import Said, Watch, Watched
    from livecc_jax.stream.engine import Engine
    from livecc_jax.stream.session import StreamModel

REDRAW = 0.5  # seconds
UNREAD = 10_000  # lines that wait for a terminal that takes none


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "watch", help="comment on many live sources at once", description=__doc__
    )
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="source",
        help="video file, camera number, or rtsp:// or http:// address",
    )
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        help="what to do, in words; given once it is for all sources, else once for each, in order",
    )
    parser.add_argument("--title", default="", help="title of the videos")
    parser.add_argument("--out", metavar="DIR", help="write NAME.jsonl, .vtt and .srt of each source")
    add_timeline_options(parser)
    parser.add_argument(
        "--cache",
        choices=("full", "rolling"),
        default="rolling",
        help="what a context keeps, as in `livecc stream` (default: rolling)",
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "own"),
        default="fast",
        help="of files: as fast as they are decoded, or as if they were live (default: fast)",
    )
    parser.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="give a live source up after so many attempts without a picture (default: never)",
    )
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="turns a tick, at most (default 16)"
    )
    add_decoding_options(parser)
    add_cache_precision(parser, "the engine")
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
    """Watch until every source is over, or until interrupted."""
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
    options = decoding_options(args, checkpoint)
    budget = PixelBudget.parse(args.pixel_budget or checkpoint.livecc.pixel_budget)
    for source in args.sources:
        if budget.tokens is None and is_live(source):
            raise ConfigError(f"{source}: a live source needs a fixed pixel budget, not `reference`")
    sizes = [budget.size(*picture_size(text), OPENING_FRAMES) for text in args.warm_up]
    names = labels(args.sources)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
    prompts = [stream_prompt(query, args.title) for query in queries(args.query, len(names))]
    model = load_stream_model(args, checkpoint)
    engine = make_engine(model, options, budget, prompts, args.batch, args.cache, args.cache_precision)
    for size, prompt in itertools.product(sizes, {*prompts}):
        engine.warm_up(size, prompt, options)
    screen = Screen(sys.stdout)
    live = LiveOptions(retries=args.retries, patient=True)
    kinds = (JsonLines, "jsonl"), (WebVtt, "vtt"), (Srt, "srt")
    with taking_logs(screen.lines, dict(zip(args.sources, names))), Watch(engine) as watch:
        watched = [
            watch.add(
                source, budget, prompt, options, name=name, pace=args.pace, live=live,
                sinks=[kind(Path(args.out) / f"{name}.{end}") for kind, end in kinds if args.out],
                on_said=screen.teller(name),
            )
            for source, name, prompt in zip(args.sources, names, prompts)
        ]  # fmt: skip
        try:
            while not watch.wait(REDRAW):
                screen.show(watch, watched)
        except KeyboardInterrupt:
            pass  # the usual end of watching cameras
        watch.close()
        screen.show(watch, watched, last=True)
    return 2 if any(w.figures().state == "failed" for w in watched) else 0


def queries(given: list[str], sources: int) -> list[str]:
    """One for each source. Raises ConfigError when there are neither one nor so many."""
    from livecc_jax.errors import ConfigError

    if len(given) not in (0, 1, sources):
        raise ConfigError(f"--query is given {len(given)} times for {sources} sources")
    return given if len(given) == sources else (given or [""]) * sources


def picture_size(text: str) -> tuple[int, int]:
    """`1920x1080` as (height, width). Raises ConfigError for anything else."""
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
    batch: int,
    cache: str,
    cache_precision: str,
) -> Engine:
    """With room for what each source may keep, as many for each group of the model's devices."""
    from livecc_jax.stream.engine import Engine, EngineOptions
    from livecc_jax.stream.history import FULL, ROLLING
    from livecc_jax.stream.rolling import rolling_room

    room, pool = 0, options.context
    if cache == "rolling":
        asked = max(len(model.tokenizer.encode(prompt)) for prompt in prompts)
        room, pool = rolling_room(ROLLING, budget.max_pair_patches // 4, asked, options.max_new_tokens)
    groups, sources = model.shards, len(prompts)
    even = -(-sources // groups) * groups
    return Engine(
        model,
        EngineOptions(
            slots=sources,
            batch=min(-(-batch // groups) * groups, even),
            pool=even * pool,
            retention=ROLLING if cache == "rolling" else FULL,
            max_new_tokens=options.max_new_tokens,
            room=room,
            cache_precision=cache_precision,
        ),
    )


def labels(sources: Sequence[str]) -> list[str]:
    """A short name for each, fit for a file and without passwords, no two alike."""
    found: list[str] = []
    for source in sources:
        address = urlsplit(source)
        if source.isdigit():
            name = f"camera-{source}"
        elif "://" in source:
            name = f"{address.hostname or ''}{f'-{address.port}' if address.port else ''}{address.path}"
        else:
            name = Path(source).stem
        name = re.sub(r"[^\w.]+", "-", name).strip("-.") or "source"
        taken, number = name, 1
        while taken in found:
            number += 1
            taken = f"{name}-{number}"
        found.append(taken)
    return found


class Screen:
    """A table drawn over and over under what scrolls by; plain lines where there is no terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._drawn = 0
        self.lines: collections.deque[str] = collections.deque(maxlen=UNREAD)

    def teller(self, name: str) -> Callable[[Said], None]:
        """Called with what is said of a source."""
        from livecc_jax.stream.session import Answer

        def tell(said: Said) -> None:
            if not self._terminal and not isinstance(said, Answer) and said.words:
                self.lines.append(f"{name}: {said.start:.1f} - {said.stop:.1f} {said.words}")

        return tell

    def show(self, watch: Watch, watched: Sequence[Watched], last: bool = False) -> None:
        """What is new, and the table; without a terminal the last one alone."""
        from livecc_jax.serving.table import table

        new = [self.lines.popleft() for _ in range(len(self.lines))]
        rows: list[str] = []
        if self._terminal or last:
            width, height = shutil.get_terminal_size()
            everything = last and not self._terminal
            figures = [w.figures() for w in watched]
            rows = table(
                figures, summary(watch, figures), 10**6 if everything else width - 1,
                10**6 if last else height,
            )  # fmt: skip
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")  # up so many lines, and clear what follows
        self._out.writelines(f"{line}\n" for line in (*new, *rows))
        self._out.flush()
        self._drawn = len(rows) if self._terminal else 0


def summary(watch: Watch, figures: Sequence) -> str:
    """All sources together."""
    from livecc_jax.serving.latency import device_bytes, host_bytes
    from livecc_jax.serving.table import gigabytes

    states = collections.Counter(f.state for f in figures)
    counted = ", ".join(f"{n} {state}" for state, n in states.most_common())
    memory = f"device {gigabytes(device_bytes())}, host {gigabytes(host_bytes())}"
    return f"{counted}; {watch.ticks_per_second:.1f} ticks/s; {memory}"


@contextlib.contextmanager
def taking_logs(lines: collections.deque[str], names: dict[str, str]) -> Iterator[None]:
    """Log messages become lines; addresses, which may hold passwords, give way to names in them."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record)
            for source, name in names.items():
                if "://" in source:
                    text = text.replace(source, name)
            lines.append(text)

    handler, logger = Handler(), logging.getLogger("livecc_jax")
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
