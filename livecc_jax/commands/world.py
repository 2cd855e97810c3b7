"""`livecc world`: writes a synthetic sports world, whose truth is known to the frame, to learn in."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_jax.world.dataset import WorldOptions


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "world", help="make a synthetic sports world to learn in", description=__doc__
    )
    parser.add_argument("--matches", type=int, default=64, metavar="N", help="matches to train on")
    parser.add_argument("--held-out", type=int, default=16, metavar="N", help="held-out matches")
    parser.add_argument("--out", metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="determines everything")
    parser.add_argument(
        "--frames",
        choices=("stored", "video", "none"),
        default="stored",
        help="pictures: stored frames at 2 a second (default), H.264 videos, or none (texts alone)",
    )
    parser.add_argument(
        "--size", default="112x84", metavar="WxH", help="pixels of a frame (default 112x84)"
    )
    parser.add_argument("--fps", type=int, default=10, help="frames a second of videos (default 10)")
    parser.add_argument(
        "--seconds",
        default="60:60",
        metavar="MIN:MAX",
        help="length of matches in seconds (default 60:60)",
    )
    parser.add_argument(
        "--tempo", type=float, default=1.0, help="how fast play goes, 0.2 to 3 (default 1)"
    )
    parser.add_argument(
        "--league",
        choices=("full", "small"),
        default="full",
        help="full (default), or small: two colours, three marks, two field players, one picture",
    )
    parser.add_argument(
        "--style",
        default="calm,lively,terse,club",
        metavar="NAME,...",
        help="styles that commentators are drawn from (default calm,lively,terse,club; also radio)",
    )
    parser.add_argument(
        "--draw",
        type=int,
        default=0,
        metavar="N",
        help="number of the commentator's draw: another one speaks otherwise about the same matches",
    )
    clips = parser.add_argument_group("annotations")
    clips.add_argument(
        "--clips",
        default="30:240",
        metavar="MIN:MAX",
        help="length of annotated clips in seconds; a match no longer than MAX is one (default 30:240)",
    )
    clips.add_argument(
        "--trailing",
        type=float,
        metavar="S",
        help="let clips end S seconds after their last word (default: they end where they were cut)",
    )
    clips.add_argument(
        "--context",
        choices=("either", "both", "title", "previous", "none"),
        default="either",
        help="what clips are given: the title unless something was said before (either, default), ...",
    )
    clips.add_argument(
        "--lineups",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of matches whose players are introduced before it, in styles that use names",
    )
    clips.add_argument("--questions", type=int, default=4, metavar="N", help="questions a match")
    noise = parser.add_argument_group("noisy captions")
    for name, default, text in (
        ("lag", 1.5, "seconds by which lines lag at most, up to 2"),
        ("dropped", 0.05, "share of words that are missing"),
        ("misheard", 0.05, "share of words that are misheard"),
        ("chatter", 2.0, "sentences of small talk a minute"),
        ("advertisements", 0.5, "advertisements a minute"),
    ):
        noise.add_argument(f"--{name}", type=float, default=default, help=f"{text} (default {default})")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: one for each core)",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="write nothing, but show a match with its commentary and the facts behind its words",
    )
    parser.add_argument(
        "--match",
        type=int,
        default=0,
        metavar="N",
        help="with --watch: which match, from 0 (default 0)",
    )
    parser.add_argument("--page", metavar="HTML", help="with --watch: also write it as a web page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes a world with progress, or shows a match."""
    from livecc_jax.errors import ConfigError

    options = _options(args)
    if args.watch:
        return _watch(options, args.match, args.page)
    if not args.out:
        raise ConfigError("--out names the folder to write; --watch shows a match instead")
    if args.page:
        raise ConfigError("--page goes with --watch")
    return _write(options, args.out, args.workers)


def _options(args: argparse.Namespace) -> WorldOptions:
    from livecc_jax.errors import ConfigError
    from livecc_jax.world.captions import Noise
    from livecc_jax.world.dataset import WorldOptions
    from livecc_jax.world.match import MatchOptions, small_league
    from livecc_jax.world.texts import ClipOptions

    size = re.fullmatch(r"(\d{1,4})x(\d{1,4})", args.size)
    if not size:
        raise ConfigError(f"--size is WIDTHxHEIGHT, such as 112x84, not {args.size!a:.40}")
    return WorldOptions(
        args.matches,
        args.held_out,
        args.seed,
        (small_league if args.league == "small" else MatchOptions)(
            _span(args.seconds, "--seconds"), args.tempo
        ),
        (int(size[2]), int(size[1])),
        args.frames,
        args.fps,
        tuple(args.style.split(",")),
        args.draw,
        ClipOptions(_span(args.clips, "--clips"), args.trailing, args.context),
        Noise(args.lag, args.dropped, args.misheard, chatter=args.chatter,
              advertisements=args.advertisements),
        args.questions,
        args.lineups,
    )  # fmt: skip


def _span(text: str, option: str) -> tuple[float, float]:
    from livecc_jax.errors import ConfigError

    numbers = text.split(":")
    try:
        low, high = float(numbers[0]), float(numbers[-1])
    except ValueError:
        low = high = float("nan")
    if len(numbers) > 2 or not low <= high:
        raise ConfigError(f"{option} is MIN:MAX in seconds, such as 60:90, not {text!a:.40}")
    return low, high


def _write(options: WorldOptions, out: str, workers: int) -> int:
    from livecc_jax.world.dataset import write_dataset
    from livecc_jax.writing import format_bytes

    total = options.matches + options.held_out
    print(f"{out}: {total} matches on {min(max(workers, 1), total)} processes", flush=True)
    start = time.perf_counter()
    shown = start

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.perf_counter()
        terminal = sys.stderr.isatty()
        if terminal or now - shown > 10 or done == total:
            shown = now
            left = (now - start) / done * (total - done)
            text = f"{done}/{total} matches, {done / (now - start):.1f}/s, {left:.0f} s left"
            print(f"\r{text}  " if terminal else text, end="" if terminal else "\n",
                  file=sys.stderr, flush=True)  # fmt: skip

    content = write_dataset(options, out, workers, progress)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    for split, counts in content["counts"].items():
        if counts:
            lines = ", ".join(f"{n} {name}" for name, n in content["lines"][split].items())
            print(
                f"  {split}: {counts['seconds'] / 60:.1f} minutes, {counts['events']} events, "
                f"{counts['words']} words that state {counts['facts']} facts; lines: {lines}"
            )
    print(
        f"  {format_bytes(size)} in {time.perf_counter() - start:.1f} s; index it with\n"
        f"  livecc index {out}/train/clean.jsonl --tokenizer {out}/tokenizer --pixel-budget "
        f"{_tokens(options.size)} --root {out} --out INDEX"
    )
    return 0


def _tokens(size: tuple[int, int]) -> int:
    """Returns the fixed pixel budget at which frames keep their size, if their sides allow it."""
    return max(1, size[0] // 28 * (size[1] // 28))


def _watch(options: WorldOptions, number: int, page_path: str | None) -> int:
    from livecc_jax.errors import ConfigError
    from livecc_jax.world.commentary import commentate, lineup
    from livecc_jax.world.dataset import draw_style, match_seed
    from livecc_jax.world.rules import make_match
    from livecc_jax.world.truth import truth
    from livecc_jax.world.watch import page, timeline
    from livecc_jax.writing import write_text

    if number < 0:
        raise ConfigError(f"matches are counted from 0, so there is no match {number}")
    match = make_match(match_seed(options, "train", number), options.match)
    true = truth(match)
    name, manner, introduced = draw_style(match, options)
    spoken = commentate(match, manner, options.draw, introduced, true)
    if introduced:
        print("Before: " + " ".join(lineup(match, manner, options.draw)))
    for line in timeline(true, spoken):
        print(line, flush=True)
    print(f"{len(spoken.words)} words in the {name} style state {len(spoken.facts)} facts")
    if page_path:
        write_text(page_path, page(match, true, spoken))
        print(f"{page_path}: the match to watch in a browser")
    return 0
