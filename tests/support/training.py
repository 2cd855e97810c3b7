"""A tiny training run on the shipped clips, for whoever tests whole runs."""

import dataclasses
import json
import shutil
from pathlib import Path

from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.data.index.build import build_index
from livecc_jax.media.budget import PixelBudget
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.text.open import open_tokenizer
from livecc_jax.train.config import CheckpointConfig, ComputeConfig, Config, DataConfig, OptimConfig
from livecc_jax.train.loop import train

ROOT = Path(__file__).parents[2]
CLIPS, ANNOTATIONS = ROOT / "data/clips", ROOT / "data/annotations"


def make_home(home, tokenizer):
    """A tokenizer and an index of four short streaming clips, one of them in a file of its own."""
    shutil.copytree(tokenizer, home / "tok")
    (home / "clips").mkdir()
    shutil.copy(CLIPS / "bbb_espeak_narration_30s.mp4", home / "clips")
    shutil.copy(CLIPS / "bbb_oddsize_317x179_derived.mp4", home / "clips/fragile.mp4")
    lines = (ANNOTATIONS / "windows.jsonl").read_text().splitlines()[:-1]
    fragile = json.loads(lines[0])
    fragile[0]["content"][0] = {"type": "video", "video": "../clips/fragile.mp4"}
    lines.append(json.dumps(fragile))
    (home / "annotations").mkdir()
    (home / "annotations/train.jsonl").write_text("\n".join(lines) + "\n")
    build_index(
        [home / "annotations/train.jsonl"],
        home / "index",
        open_tokenizer(home / "tok"),
        PixelBudget.parse(12),
    )


def config(home, run, **changes):
    made = Config(
        run=str(run),
        preset="tiny",
        tokenizer=str(home / "tok"),
        seed=3,
        log_every=1,
        data=DataConfig(
            index=str(home / "index"), tokens=1024, windows=24, targets=256, rows_per_step=1, epochs=3
        ),
        optim=OptimConfig(learning_rate=3e-3, warmup_ratio=0.2),
        compute=ComputeConfig(dtype="float32", remat="none"),
        mesh=MeshConfig(devices=1),
        checkpoint=CheckpointConfig(every=2, keep=10),
    )
    return dataclasses.replace(made, **changes)


def losses(config, stop_at=None):
    seen = {}

    def report(progress):
        seen[progress.step] = (progress.loss, progress.grad_norm, progress.quarantined)
        if progress.step == stop_at:
            raise KeyboardInterrupt

    try:
        train(config, report)
    except KeyboardInterrupt:
        assert stop_at
    return seen


def params_of(run):
    return open_checkpoint(run).load_params()
