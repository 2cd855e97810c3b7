"""The miniature: two shapes and few words, learned by the whole system in a minute on two CPU cores.

    python -m tests.support.miniature FOLDER

One against one before a still camera, close by. Now and then one of the two comes and shoots, and a
commentator says who. Everything is the project's: rendered frames, annotations, index, packing, the
training loop, the streaming engine, scoring by facts. The script leaves FOLDER/out/report.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from livecc_jax.media.frame_file import write_frame_file
from livecc_jax.world.commentary import Style, commentate
from livecc_jax.world.drill import DrillOptions, make_drill
from livecc_jax.world.render import render
from livecc_jax.world.texts import ClipOptions, cut_clips, stream_annotation
from livecc_jax.world.truth import to_json, truth
from livecc_jax.world.vocabulary import train_tokenizer

SECONDS, SIZE, TOKENS = 12, (56, 84), 6
TRAIN, HELD_OUT, STEPS = 384, 24, 500
DRILLS = DrillOptions(
    seconds=SECONDS,
    gap=(2.2, 4.6),
    marks=("circle", "square"),
    actions=("shot",),
    players=1,
    close=True,
)
MANNER = Style("terse", mentions={"shot": 1.0}, remarks=0.0, delay=0.3, rate=5.0)


def write_world(folder: Path) -> None:
    """Writes the matches of both splits as `livecc world` does."""
    times = np.arange(2 * SECONDS) / 2
    for split, count, first in (("train", TRAIN, 0), ("held_out", HELD_OUT, 10_000)):
        lines: dict[str, list[bytes]] = {"clean": [], "second": []}
        for number in range(count):
            match = make_drill(first + number, DRILLS)
            name = f"{split}-{number}"
            for part in ("videos", "truth", split):
                (folder / part).mkdir(parents=True, exist_ok=True)
            frames = render(match, times, SIZE)
            stamps = np.round(times * 1e6).astype(np.int64)
            write_frame_file(folder / "videos" / f"{name}.frames", frames, stamps, 100_000)
            true = truth(match)
            (folder / "truth" / f"{name}.json").write_text(json.dumps(to_json(true)))
            for draw, key in enumerate(lines):
                words = commentate(match, MANNER, draw, true=true).words
                video = f"../videos/{name}.frames"
                for clip in cut_clips(words, [], SECONDS, 0.1, ClipOptions(), 0):
                    annotation = stream_annotation(clip, video, match.context.title, "", "", "none")
                    lines[key].append(json.dumps(annotation).encode() + b"\n")
        for key, found in lines.items():
            offsets = np.cumsum([0, *map(len, found)])[:-1].tolist()
            data = b"".join(found) + json.dumps(offsets).encode() + b"\n"
            (folder / split / f"{key}.jsonl").write_bytes(data)
    train_tokenizer(folder / "tokenizer")


def learn(folder: Path) -> None:
    """Indexes, trains, and evaluates on the held-out matches."""
    from livecc_jax.cli import main
    from livecc_jax.data.index.build import build_index
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.parallel.mesh import MeshConfig
    from livecc_jax.text.open import open_tokenizer
    from livecc_jax.train.config import (
        CheckpointConfig,
        ComputeConfig,
        Config,
        DataConfig,
        OptimConfig,
    )
    from livecc_jax.train.loop import train

    tokenizer = open_tokenizer(folder / "tokenizer")
    budget = PixelBudget.parse(TOKENS)
    annotations = [folder / "train/clean.jsonl"]
    index = build_index(annotations, folder / "index", tokenizer, budget, silent_tail=SECONDS)
    print(f"{len(index)} clips, {index.tokens.mean():.0f} tokens each", flush=True)
    config = Config(
        run=str(folder / "run"),
        preset="tiny",
        tokenizer=str(folder / "tokenizer"),
        log_every=50,
        max_steps=STEPS,
        data=DataConfig(
            index=str(folder / "index"), tokens=352, windows=14, targets=96, rows_per_step=4, epochs=99
        ),
        optim=OptimConfig(learning_rate=3e-3, warmup_ratio=0.1, b2=0.95),
        compute=ComputeConfig(dtype="float32", remat="none", freeze=(), head_chunk=96),
        mesh=MeshConfig(devices=1),
        checkpoint=CheckpointConfig(every=0, keep=1),
    )
    began = time.perf_counter()
    train(config, lambda r: print(f"step {r.step}: {r.loss:.3f}", flush=True))
    print(f"trained in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    out = ["--data", str(folder), "--out", str(folder / "out")]
    main(["evaluate", "world", str(folder / "run"), *out, "--batch", "24", "--max-new-tokens", "16"])
    print(f"evaluated in {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    write_world(Path(sys.argv[1]))
    learn(Path(sys.argv[1]))
