"""Measures how fast worlds are made, and the ceiling that another draw of the commentator gives.

    python benchmarks/world.py [--matches 40] [--style calm lively terse club]

Times are CPU seconds of one process, so that other work on the machine counts as little as it can. The
ceiling is F1 of facts: those of one draw against those of the next over the same match, each matched at
most once with an equal fact within 3 seconds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from livecc_jax.world.commentary import USUAL_STYLES, commentate, style
from livecc_jax.world.dataset import WorldOptions, match_texts, write_frames
from livecc_jax.world.render import render
from livecc_jax.world.rules import make_match
from livecc_jax.world.truth import truth

SIZES = ((84, 112), (112, 112), (168, 224), (252, 336), (336, 448))
SECONDS = 60.0  # of a match
NEAR = 3.0  # seconds between equal facts


def agreement(first, second):
    """Returns (equal facts, all facts) of two commentaries."""
    left, equal = list(second.facts), 0
    for fact in first.facts:
        near = [other for other in left if other == fact and abs(other.time - fact.time) <= NEAR]
        if near:
            left.remove(min(near, key=lambda other: abs(other.time - fact.time)))
            equal += 1
    return equal, len(first.facts) + len(second.facts)


def seconds_each(function, items):
    """Returns the CPU seconds of a call."""
    start = time.process_time()
    for item in items:
        function(item)
    return (time.process_time() - start) / len(items)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matches", type=int, default=40)
    parser.add_argument("--style", nargs="+", default=list(USUAL_STYLES))
    args = parser.parse_args()
    numbers = range(args.matches)
    print(f"playing a match of {SECONDS:g} s: {seconds_each(make_match, numbers):.3f} s of CPU")
    matches = [make_match(number) for number in numbers]
    options = WorldOptions(1)
    cost = seconds_each(lambda m: match_texts(m, "train", 0, "../videos/a.frames", options), matches)
    print(f"its truth, commentary, captions and questions: {cost:.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("stored", "video"):
            options = WorldOptions(1, frames=kind)
            path = Path(folder, kind)
            cost = seconds_each(lambda m, p=path, o=options: write_frames(m, p, o), matches[:10])
            size = path.stat().st_size
            print(f"its pictures, {kind}, 112x84: {cost:.3f} s, {size / 1000:.0f} kB")
    times = np.arange(0, SECONDS, 0.5)
    for size in SIZES:
        render(matches[0], times[:4], size)
        cost = seconds_each(lambda m, size=size: render(m, times, size), matches[:4]) / len(times)
        print(f"rendering {size[1]}x{size[0]}: {1 / cost:.0f} frames a second of CPU")
    for name in args.style:
        manner, counts, delays, words = style(name), [], [], 0
        for match in matches:
            true = truth(match)
            first, second = (commentate(match, manner, draw, true=true) for draw in (0, 1))
            counts.append(agreement(first, second))
            delays += [f.time - b for f, b in zip(first.facts, first.began) if f.kind == "event"]
            words += len(first.words)
        equal, both = np.sum(counts, 0)
        median, late = np.percentile(delays, [50, 90])
        words, facts = words / len(matches), both / 2 / len(matches)
        print(
            f"{name}: {words:.0f} words and {facts:.1f} facts a match, delay {median:.2f} s "
            f"(90%: {late:.2f} s), F1 of the next draw {2 * equal / both:.3f}"
        )


if __name__ == "__main__":
    main()
