"""Measures rows a second by number of workers, and how many cores feed the four chips of a TPU host.

    python benchmarks/pipeline.py [--seconds 30] [--workers 0 1 2] [--height 480] [--budget 384]

The shipped clip of 30 s is enlarged to the height asked for and encoded as H.264 with a key frame every
two seconds, as video sites do. 32 copies of it under different names fill rows of 32,768 tokens.

A host of v5p has four chips with a peak of 459 TFLOP/s in bfloat16. The rows a second that a 7B run
(tower frozen) needs at 55% MFU follow from the model FLOPs of the rows (`model.flops`).
"""

import argparse
import json
import os
import resource
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from livecc_jax.data.files.timing import SECTIONS
from livecc_jax.data.index.build import build_index
from livecc_jax.data.rows.pipeline import RowSource, batches, count_steps
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.video import iter_frames, probe
from livecc_jax.model.flops import step_flops
from livecc_jax.model.presets import preset
from livecc_jax.text.open import open_tokenizer

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "data/clips/bbb_espeak_narration_30s.mp4"
NARRATION = ROOT / "data/annotations/narration.jsonl"
HOST_FLOPS, MFU = 4 * 459e12, 0.55
COPIES = 32


def enlarge(height, path):
    """Encodes the clip at another height."""
    import av
    import cv2

    info = probe(CLIP)
    width = round(info.width / info.height * height / 2) * 2
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24), options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 48
        for frame in iter_frames(info, np.arange(len(info.pts_us))):
            large = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, "rgb24")))
        container.mux(stream.encode())


def processor_seconds():
    return sum(
        u.ru_utime + u.ru_stime
        for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--budget", default="384")
    args = parser.parse_args()
    model = preset("7b")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        enlarge(args.height, home / "0.mp4")
        line = json.loads(NARRATION.read_text().splitlines()[0])
        with open(home / "a.jsonl", "w") as file:
            for i in range(COPIES):
                if i:
                    os.link(home / "0.mp4", home / f"{i}.mp4")
                line[0]["content"][0]["video"] = f"{i}.mp4"
                file.write(json.dumps(line) + "\n")
        tokenizer = ROOT / "data/tokenizer"
        budget = PixelBudget.parse(args.budget)
        build_index([home / "a.jsonl"], home / "index", open_tokenizer(tokenizer), budget)
        windows = 96 if args.budget != "reference" else 64
        source = RowSource(
            str(home / "index"), str(tokenizer), 32768, windows, 2048, "mrope", "token", 0, 400
        )
        print(f"{args.height}p, budget {budget}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for workers in args.workers:
            measure(source, args.seconds, workers, model)


def measure(source, seconds, workers, model):
    """Builds rows for some seconds and prints the rate.

    Processor time is that of this process and, after they have ended, of its workers.
    """
    threads = os.cpu_count()
    stream = batches(
        source, first_step=0, steps=count_steps(source, 1), rows_per_step=1, accumulate=1,
        workers=workers, threads=threads,
    )  # fmt: skip
    rows, timings, flops, start = 0, None, 0.0, 0.0
    warmup = 2 * max(1, workers)
    processor = processor_seconds()
    for number, batch in enumerate(stream):
        now = time.perf_counter()
        if number < warmup:
            start = now
            processor = processor_seconds() if not workers else processor
            continue
        rows += 1
        timings = batch.timings if timings is None else timings + batch.timings
        flops += step_flops(model, batch.rows, vision_trainable=False)
        if now - start > seconds:
            break
    elapsed = time.perf_counter() - start
    processor = processor_seconds() - processor
    stream.close()
    frames = timings["frames"] / rows
    shares = ", ".join(f"{p} {timings[p] / timings['build']:.0%}" for p in SECTIONS)
    print(
        f"{workers or 'no'} workers{f', {threads} threads' if not workers else ''}: "
        f"{rows / elapsed:.3f} rows/s, {frames * rows / elapsed:.0f} frames/s ({shares})"
    )
    if not workers:
        row_seconds = processor / rows
        row_rate = HOST_FLOPS * MFU / (flops / rows)
        print(
            f"a row of {frames:.0f} frames ({frames / 2:.0f} s of video) takes {row_seconds:.2f} s of "
            f"processor, {2000 * row_seconds / frames:.0f} ms a second of video; "
            f"four v5p chips at 55% MFU take {row_rate:.2f} rows/s: {row_rate * row_seconds:.1f} cores"
        )


if __name__ == "__main__":
    main()
