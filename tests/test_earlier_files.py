"""Indexes, runs and exports that an earlier version wrote open unchanged (tests/goldens/earlier)."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.model.lora import LoraConfig
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.train.config import CheckpointConfig, ComputeConfig, Config, DataConfig, OptimConfig
from livecc_jax.train.loop import train

ROOT = Path(__file__).parents[1]
EARLIER = ROOT / "tests/goldens/earlier"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A copy whose runs can go on, with the clips where its annotations look for them."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    folder = shutil.copytree(EARLIER, tmp_path / "tests/goldens/earlier")
    monkeypatch.chdir(folder)
    return folder


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def described(params):
    """Shape, dtype and digest of every parameter by its path."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}
    return {k: [list(x.shape), str(x.dtype), digest(x)] for k, x in arrays.items()}


def test_an_index_gives_the_same_rows(earlier):
    source = RowSource(
        "index",
        tokenizer_path="tokenizer",
        tokens=768,
        windows=24,
        targets=256,
        positions="mrope",
        weighting="token",
        seed=3,
        epochs=4,
    )
    assert source.mixture.digest == EXPECTED["digest"]
    assert len(source) == EXPECTED["rows"]
    row, failed = source.row(0)
    assert not failed
    assert {name: digest(array) for name, array in row.items()} == EXPECTED["row_0"]


@pytest.mark.parametrize("name", ["run", "lora"])
def test_a_run_opens_and_resumes(earlier, name):
    """Its weights to the bit; the remaining steps within rounding, which a CPU's kind decides."""
    params = described(open_checkpoint(name).load_params())
    assert params == EXPECTED["params" if name == "run" else "lora_params"]
    config = Config(
        run=name,
        preset="tiny",
        tokenizer="tokenizer",
        seed=3,
        log_every=1,
        data=DataConfig(index="index", tokens=768, windows=24, targets=256, rows_per_step=1, epochs=4),
        optim=OptimConfig(learning_rate=3e-3, warmup_ratio=0.2),
        compute=ComputeConfig(dtype="float32", remat="none"),
        mesh=MeshConfig(devices=1),
        checkpoint=CheckpointConfig(every=2, keep=1),
    )
    if name == "lora":
        compute = dataclasses.replace(config.compute, lora=LoraConfig(rank=2))
        config = dataclasses.replace(config, compute=compute)
    losses = {}
    train(config, lambda progress: losses.update({str(progress.step): progress.loss}))
    expected = EXPECTED["losses" if name == "run" else "lora_losses"]
    assert set(losses) == {str(step) for step in range(3, 9)}
    for step, loss in losses.items():
        assert loss == pytest.approx(expected[step], rel=1e-5)


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_an_export_holds_the_runs_weights(earlier, layout):
    checkpoint = open_checkpoint(f"export_{layout}")
    assert described(checkpoint.load_params()) == EXPECTED["params"]
    assert checkpoint.config == open_checkpoint("run").config
    assert checkpoint.livecc.pixel_budget == "4"
