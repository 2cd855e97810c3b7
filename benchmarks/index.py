"""How many annotation lines a second `livecc index` indexes.

    python benchmarks/index.py [--examples 20000] [--videos 400] [--workers 0 2]
    python benchmarks/index.py --only questions --examples 5000000 --workers 2

Three kinds of annotations are measured. Text only: streaming clips of 30 to 240 s, two words a second,
whose annotations declare duration and size (provisional records). Questions: short ones without media.
With timestamps: clips of the shipped 30 s video, each under a file name of its own (a link), so that
each is demuxed; then again with cached timestamps.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from livecc_jax.data.index.build import build_index
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "data/clips/bbb_espeak_narration_30s.mp4"
WORDS = ["the", "a", "rabbit", "then", "slowly", "burrow", "and", "looks", "around", "meadow", "sun"]


def line(rng, video, seconds, **declared):
    """An annotation line of a streaming clip."""
    starts = np.sort(rng.uniform(0.5, seconds - 1, 2 * seconds)).round(2)
    words = [[s, round(s + 0.2, 2), str(rng.choice(WORDS))] for s in starts.tolist()]
    clip = {"type": "video", "video": str(video), "video_start": 0, "video_end": seconds}
    question = [
        clip | declared,
        {"type": "text", "text": "", "title": "A film about animals in a forest"},
    ]
    stream = {"type": "text_stream", "text_stream": words}
    turns = [("user", question), ("assistant", [stream])]
    return json.dumps([{"role": role, "content": content} for role, content in turns])


def processor_seconds():
    """Processor time of this process and of its ended children, in seconds."""
    usage = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usage)


def measure(name, files, out, tokenizer, workers, **options):
    start, processor_start = time.perf_counter(), processor_seconds()
    index = build_index(
        files, out, tokenizer, PixelBudget.parse(384), workers=workers, overwrite=True, **options
    )
    elapsed = time.perf_counter() - start
    busy = processor_seconds() - processor_start
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    size = sum(f.stat().st_size for f in out.iterdir())
    lines = sum(a["lines"] for a in index.annotations)
    print(
        f"{name}, {workers or 'no'} workers: {lines / elapsed:.0f} lines/s, "
        f"{lines / busy:.0f} a second of processor time ({lines} lines, {len(index)} examples), "
        f"{size / len(index):.0f} bytes an example, "
        f"largest process {peak / 2**10:.0f} MiB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--only", choices=("text", "questions", "videos"))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    tokenizer = open_tokenizer(ROOT / "data/tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        size = {"width": 854, "height": 480}
        with open(home / "text.jsonl", "w") as file:
            for i in range(args.examples if args.only in (None, "text") else 0):
                seconds = int(rng.integers(30, 241))
                file.write(line(rng, f"{i}.mp4", seconds, duration=seconds, **size) + "\n")
        with open(home / "videos.jsonl", "w") as file:
            for i in range(args.videos):
                os.link(CLIP, home / f"{i}.mp4") if os.stat(CLIP).st_dev == os.stat(home).st_dev else (
                    home / f"{i}.mp4"
                ).symlink_to(CLIP)
                file.write(line(rng, f"{i}.mp4", 30) + "\n")
        with open(home / "questions.jsonl", "w") as file:
            for i in range(args.examples):
                turns = [("user", f"What comes after {i}?"), ("assistant", f"It is {i + 1}.")]
                file.write(json.dumps([{"role": r, "content": c} for r, c in turns]) + "\n")
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
            f"text file {(home / 'text.jsonl').stat().st_size / 2**20:.0f} MiB"
        )
        for workers in args.workers:
            out = home / "index"
            if args.only in (None, "text"):
                measure("text only", [home / "text.jsonl"], out, tokenizer, workers, provisional=True)
            if args.only in (None, "questions"):
                measure("questions", [home / "questions.jsonl"], out, tokenizer, workers)
            if args.only in ("text", "questions"):
                continue
            timestamps = home / f"timestamps-{workers}.sqlite"
            for name in ("with timestamps", "with cached timestamps"):
                measure(name, [home / "videos.jsonl"], out, tokenizer, workers, timestamps=timestamps)


if __name__ == "__main__":
    main()
