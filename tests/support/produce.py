"""Sources with invented words, runs over them, and plug-ins that go wrong in a worker."""

import json
import os
import random
import time

from livecc_jax.produce.line.local import InThisProcess
from livecc_jax.produce.line.run import produce
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.sources.listing import list_sources

VOCABULARY = [f"word{i}" for i in range(2000)]
NO_LANGUAGE = PRETRAIN.with_filters(["size", "duration", "title", "distinct", "duplicates"])


def invented_words(seed, count=150):
    """`[start, end, word]` at two to four words a second, with some long silences."""
    rng, at, words = random.Random(seed), 0.0, []
    for _ in range(count):
        length = rng.uniform(0.2, 0.45)
        words.append([round(at, 3), round(at + length, 3), rng.choice(VOCABULARY)])
        at += length + rng.uniform(0.0, 0.1) + (5.0 if rng.random() < 0.01 else 0.0)
    return words


def source_line(number, **changes):
    """A line of a list: some are too small, every tenth repeats the words of one before."""
    words = invented_words(number - 3 if number % 10 == 9 else number)
    line = {
        "video": f"video{number}.mp4",
        "duration": words[-1][1] + 1,
        "width": 1280 if number % 7 else 320,
        "height": 720,
        "title": f"Title {number}",
        "category": "Sports",
        "words": words,
    }
    return line | changes


def write_sources(path, count, **changes):
    path.write_text("".join(json.dumps(source_line(i, **changes)) + "\n" for i in range(count)))
    return path


def run_produce(sources, out, parameters=NO_LANGUAGE, runner=None, **options):
    entries = list_sources([str(sources)])
    return produce(entries, out, parameters, runner or InThisProcess(), **options)


def outputs(out):
    return [(out / name).read_bytes() for name in ("annotations.jsonl", "rejected.jsonl")]


def clips_of(out):
    *lines, _ = (out / "annotations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def rejections_of(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


# Stages that go wrong, for `tests/produce/line/test_worker.py`. A worker imports them by their name.


def misbehave(record, parameters, models):
    """A stage that does what the video's name says."""
    name = record.video
    if "hang" in name:
        time.sleep(600)
    if "die" in name:
        os._exit(3)
    if "memory" in name:
        blocks = []
        while True:
            blocks.append(b"x" * (1 << 28))
            time.sleep(0.05)
    if "raise" in name:
        raise ValueError("a plug-in's own mistake")
    return [record]


def no_judge(frames, clip):
    raise ValueError(f"cannot judge {len(frames)} frames")


def share_of_red(frames, clip):
    return float(frames[..., 0].mean() > 100)
