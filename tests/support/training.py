"""Support for tests of complete runs: a tiny training run on the shipped clips."""

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

CLIP_SECONDS = 5
ROOT = Path(__file__).parents[2]
CLIPS, ANNOTATIONS = ROOT / "data/clips", ROOT / "data/annotations"


def make_run_data(folder, tokenizer):
    """Writes a tokenizer and an index of four short streaming clips, one of them in a separate file."""
    shutil.copytree(tokenizer, folder / "tok")
    (folder / "clips").mkdir()
    shutil.copy(CLIPS / "bbb_espeak_narration_30s.mp4", folder / "clips")
    shutil.copy(CLIPS / "bbb_oddsize_317x179_derived.mp4", folder / "clips/fragile.mp4")
    lines = (ANNOTATIONS / "windows.jsonl").read_text().splitlines()[:-1]
    conversations = [_first_seconds(json.loads(line)) for line in lines]
    fragile = _first_seconds(json.loads(lines[0]))
    fragile[0]["content"][0] = {"type": "video", "video": "../clips/fragile.mp4"}
    lines = [json.dumps(conversation) for conversation in (*conversations, fragile)]
    (folder / "annotations").mkdir()
    (folder / "annotations/train.jsonl").write_text("\n".join(lines) + "\n")
    index_clips(folder, "train.jsonl", folder / "index")


def _first_seconds(conversation):
    """Cuts a conversation to the first seconds of its clip, so that its row is small."""
    clip, words = conversation[0]["content"][0], conversation[1]["content"][0]
    clip["video_end"] = clip["video_start"] + CLIP_SECONDS
    words["text_stream"] = [word for word in words["text_stream"] if word[1] <= clip["video_end"]]
    return conversation


def index_clips(folder, annotations, out):
    """Indexes an annotation file of the folder."""
    path = folder / "annotations" / annotations
    build_index([path], out, open_tokenizer(folder / "tok"), PixelBudget.parse(12))


def run_config(folder, run, **changes):
    """The config of a tiny run on the data of `make_run_data`."""
    base = Config(
        run=str(run),
        preset="tiny",
        tokenizer=str(folder / "tok"),
        seed=3,
        log_every=1,
        data=DataConfig(
            index=str(folder / "index"), tokens=512, windows=12, targets=96, rows_per_step=1, epochs=4
        ),
        optim=OptimConfig(learning_rate=3e-3, warmup_ratio=0.2),
        compute=ComputeConfig(dtype="float32", remat="none"),
        mesh=MeshConfig(devices=1),
        checkpoint=CheckpointConfig(every=2, keep=10),
    )
    return dataclasses.replace(base, **changes)


def train_losses(config, stop_at=None, hooks=()):
    """Trains; returns (loss, gradient norm, quarantined) of each step. `stop_at` interrupts the run."""
    by_step = {}

    def report(progress):
        by_step[progress.step] = (progress.loss, progress.grad_norm, progress.quarantined)
        if progress.step == stop_at:
            raise KeyboardInterrupt

    try:
        train(config, report, hooks=hooks)
    except KeyboardInterrupt:
        assert stop_at
    return by_step


def load_run_params(run):
    """The parameters of the newest step of a run."""
    return open_checkpoint(run).load_params()
