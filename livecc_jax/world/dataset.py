"""Writes a world: videos or stored frames, truth files, annotations of both splits, tokenizer.

    OUT/world.json                 options, versions, counts
    OUT/tokenizer/tokenizer.model
    OUT/videos/train-00000.frames  or .mp4; held-00000 ... are the held-out matches
    OUT/truth/train-00000.json     `truth.read_truth`
    OUT/train/                     clean.jsonl noisy.jsonl questions.jsonl
    OUT/held_out/                  the same, second.jsonl (another draw of the commentator), and
                                   LiveSports-3K-CC.json, LiveSports-3K-QA.json for `livecc evaluate`

Lines are in the order of matches, so the first lines of a file are a smaller world. The held-out
matches do not depend on how many others there are.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.errors import ConfigError, DataError
from livecc_jax.media.frame_file import SUFFIX, write_frame_file
from livecc_jax.parallel.child_process import exit_with_parent
from livecc_jax.version import __version__
from livecc_jax.world.annotation_files import BENCHMARKS, FILES, SPLITS, AnnotationFiles, Texts
from livecc_jax.world.captions import Noise, noisy
from livecc_jax.world.commentary import USUAL_STYLES, Style, commentate, lineup, style
from livecc_jax.world.facts import TimedWord
from livecc_jax.world.match import Match, MatchOptions
from livecc_jax.world.questions import KINDS, questions
from livecc_jax.world.render import render
from livecc_jax.world.rules import make_match
from livecc_jax.world.texts import (
    QUERY,
    STEP,
    Clip,
    ClipOptions,
    commentary_record,
    cut_clips,
    question_annotation,
    question_record,
    stream_annotation,
)
from livecc_jax.world.truth import to_json, truth
from livecc_jax.world.video_file import write_video
from livecc_jax.world.vocabulary import train_tokenizer
from livecc_jax.writing import make_folder, write_text

FRAMES = ("stored", "video", "none")
STEPS_A_SECOND = 2
PIECE = 50  # frames of a video that are rendered together
HELD_OUT_SEEDS = 1 << 30  # added to the numbers of held-out matches


@dataclass(frozen=True)
class WorldOptions:
    """What is written.

    Attributes:
        matches: Number of matches to train on.
        held_out: Number of held-out matches.
        seed: Determines everything, together with the other options.
        match: How matches are played.
        size: Height and width of frames in pixels.
        frames: `stored` (frames files, at 2 a second), `video` (H.264), or `none` (texts alone).
        fps: Frames a second of videos; even, as every half second must fall on a frame. Stored frames
            are those of a video of this rate.
        styles: Names of the styles that commentators are drawn from.
        draw: Number of the commentator's first draw; the second is the next one.
        clips: How matches are cut into clips.
        noise: What is wrong with captions.
        questions: Questions a match.
        lineups: Share of matches, of those whose style uses names, before which the players are
            introduced.
    """

    matches: int
    held_out: int = 16
    seed: int = 0
    match: MatchOptions = field(default_factory=MatchOptions)
    size: tuple[int, int] = (84, 112)
    frames: str = "stored"
    fps: int = 10
    styles: tuple[str, ...] = USUAL_STYLES
    draw: int = 0
    clips: ClipOptions = field(default_factory=ClipOptions)
    noise: Noise = field(default_factory=Noise)
    questions: int = 4
    lineups: float = 0.5

    def __post_init__(self) -> None:
        if self.frames not in FRAMES:
            raise ConfigError(f"frames are {', '.join(FRAMES)}, not {self.frames!a:.40}")
        if not 2 <= self.fps <= 60 or self.fps % 2:
            raise ConfigError(f"the frame rate is an even number from 2 to 60, not {self.fps}")
        if self.matches < 0 or self.held_out < 0 or not self.matches + self.held_out:
            raise ConfigError("a world has at least one match")
        if not 0 <= self.seed < 1 << 31:
            raise ConfigError("the seed of a world is a number from 0 to 2147483647")
        for name in self.styles:
            style(name)

    @property
    def names(self) -> list[tuple[str, int, str]]:
        """(split, number, name) of each match."""
        counts = (("train", self.matches, "train"), ("held_out", self.held_out, "held"))
        return [(split, i, f"{short}-{i:05d}") for split, n, short in counts for i in range(n)]


def match_seed(options: WorldOptions, split: str, number: int) -> int:
    """Returns the seed of a match: different for every world seed, split and number."""
    return (options.seed << 32) + number + (HELD_OUT_SEEDS if split == "held_out" else 0)


def draw_style(match: Match, options: WorldOptions) -> tuple[str, Style, bool]:
    """Returns name and style of a match's commentator, and whether players are introduced before it."""
    rng = np.random.default_rng([match.seed, 61])
    name = options.styles[int(rng.integers(len(options.styles)))]
    manner = style(name)
    return name, manner, manner.names > 0 and float(rng.random()) < options.lineups


def stored_times(seconds: float) -> np.ndarray:
    """Returns the times, in seconds, of the frames that are stored of a match."""
    return np.arange(round(seconds * STEPS_A_SECOND)) * STEP


def write_frames(match: Match, path: Path, options: WorldOptions) -> int:
    """Writes the pictures of a match, and returns their number."""
    if options.frames == "stored":
        times = stored_times(match.seconds)
        frames = render(match, times, options.size)
        duration = round(1_000_000 / options.fps)
        write_frame_file(path, frames, np.round(times * 1e6).astype(np.int64), duration)
        return len(times)
    times = np.arange(round(match.seconds * options.fps)) / options.fps
    pieces = (
        render(match, times[first : first + PIECE], options.size)
        for first in range(0, len(times), PIECE)
    )
    write_video(path, pieces, options.size, options.fps)
    return len(times)


def match_texts(match: Match, split: str, number: int, video: str, options: WorldOptions) -> Texts:
    """Makes all texts of a match.

    Args:
        match: The match.
        split: `train` or `held_out`.
        number: Number of the match in it.
        video: Path of its video, relative to the folder of the annotation files.
        options: What is written.
    """
    true, title, name = truth(match), match.context.title, Path(video).stem
    style_name, manner, introduced = draw_style(match, options)
    before = lineup(match, manner, options.draw) if introduced else []
    texts = Texts(split, {key: [] for key in FILES[split]}, {key: [] for key in BENCHMARKS})

    def clips(words: Sequence[TimedWord], words_before: list[str], seed: int) -> list[Clip]:
        frame = 1 / options.fps
        return cut_clips(words, words_before, match.seconds, frame, options.clips, seed)

    def put(key: str, found: list[Clip], query: str) -> None:
        context = options.clips.context
        for clip in found:
            line = stream_annotation(clip, video, title, query, style_name, context)
            texts.lines[key].append(_line(line))

    spoken = commentate(match, manner, options.draw, introduced, true)
    query = QUERY.format(style=style_name)
    clean = clips(spoken.words, before, match.seed)
    put("clean", clean, query)
    # Captions of the web have their own cuts, as nobody cuts them by hand.
    heard = noisy(spoken.words, options.noise, match.seed, match.seconds)
    put("noisy", clips(heard.words, _heard(before), match.seed + 1), "")
    asked = questions(true, 0, options.questions)
    for i, question in enumerate(asked):
        line = question_annotation(question, video, choice=i % 2 == 0)
        texts.lines["questions"].append(_line(line))
    if split == "held_out":
        second = commentate(match, manner, options.draw + 1, introduced, true)
        put("second", clips(second.words, before, match.seed), query)
        texts.records["cc"] = [
            commentary_record(clip, name, i, video, title) for i, clip in enumerate(clean)
        ]
        first = options.questions * number
        texts.records["qa"] = [
            question_record(question, name, first + i, video) for i, question in enumerate(asked)
        ]
    texts.counts = {
        "words": len(spoken.words), "facts": len(spoken.facts), "events": len(true.events),
        "misheard": heard.misheard, "dropped": heard.dropped, "added": heard.added,
        "seconds": round(match.seconds),
    }  # fmt: skip
    return texts


def _heard(words: list[str]) -> list[str]:
    return [word.strip(".!?") for word in words]


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def write_match(options: WorldOptions, out: Path, split: str, number: int, name: str) -> Texts:
    """Writes pictures and truth of one match, and returns its texts."""
    match = make_match(match_seed(options, split, number), options.match)
    suffix = ".mp4" if options.frames == "video" else SUFFIX
    video = Path("videos", name + suffix)
    texts = match_texts(match, split, number, f"../{video}", options)
    style_name, _, introduced = draw_style(match, options)
    content = to_json(truth(match)) | {"style": style_name, "lineup": introduced}
    write_text(out / "truth" / f"{name}.json", json.dumps(content, separators=(",", ":")) + "\n")
    if options.frames != "none":
        texts.counts["frames"] = write_frames(match, out / video, options)
    return texts


def write_dataset(
    options: WorldOptions,
    out: str | Path,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes a world.

    Args:
        options: What is written.
        out: Folder; it may exist, files in it are replaced. With `frames` "none" the pictures that it
            holds stay as they are.
        workers: Processes; 0 and 1 work in this one. The bytes that are written do not depend on it.
        on_progress: Called with the number of matches done and of all matches.

    Returns:
        The content of `world.json`.

    Raises:
        OutputError: A file cannot be written.
        ConfigError: Videos cannot be written in this size, or without PyAV.
    """
    out = Path(out)
    for folder in ("videos", "truth", *SPLITS):
        make_folder(out / folder)
    jobs = options.names
    writers = AnnotationFiles(out)
    counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    try:
        for done, texts in enumerate(_run(options, out, jobs, workers), 1):
            writers.add(texts)
            for key, value in texts.counts.items():
                counts[texts.split][key] = counts[texts.split].get(key, 0) + value
            if on_progress:
                on_progress(done, len(jobs))
        lines = writers.finish()
    finally:
        writers.close()
    queries = tuple(QUERY.format(style=name) for name in sorted({*options.styles, *USUAL_STYLES}))
    train_tokenizer(out / "tokenizer", (*queries, *_question_texts()))
    content = {
        "version": 1,
        "livecc_jax": __version__,
        "options": dataclasses.asdict(options),
        "counts": counts,
        "lines": lines,
        "question_kinds": list(KINDS),
    }
    write_text(out / "world.json", json.dumps(content, indent=1) + "\n")
    return content


def _question_texts() -> tuple[str, ...]:
    return (
        "How many goals have red scored?", "What is the score of blue against white?",
        "Who is in front?", "What colour do Foxes wear?", "Who scored last?", "What did we see last?",
        "Who has the ball?", "How many fouls by cyan?", "a goal", "a foul", "a save",
        "a ball that went out", "nobody", "Please select the correct answer.",
        "Answer: A", "Answer: B", "Answer: C", "Answer: D", "A. one", "B. two", "C. red", "D. blue",
    )  # fmt: skip


def _run(
    options: WorldOptions, out: Path, jobs: list[tuple[str, int, str]], workers: int
) -> Iterator[Texts]:
    """Yields the texts of all matches, in order."""
    if workers < 2 or len(jobs) < 2:
        for job in jobs:
            yield write_match(options, out, *job)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), multiprocessing.get_context("spawn"), _start, (os.getpid(),)
    )
    try:
        # In chunks: a match takes a tenth of a second, and sending one a tenth of that.
        arguments = zip(*[(options, out, *job) for job in jobs])
        chunk = max(1, min(8, len(jobs) // (4 * workers)))
        yield from pool.map(write_match, *arguments, chunksize=chunk)
    except BrokenProcessPool as error:
        raise DataError(f"{out}: a worker process was killed (out of memory?)") from error
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(parent: int) -> None:
    # Ctrl-C reaches every process of the terminal; only the parent reports it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    exit_with_parent(parent)
