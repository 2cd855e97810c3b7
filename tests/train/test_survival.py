"""Failures during a run: signals, damaged checkpoints, full disks, harmful steps."""

import dataclasses
import gc
import json
import logging
import os
import resource
import shutil
import signal
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.run import RunDirectory, list_steps
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.model.presets import preset
from livecc_jax.train.config import CheckpointConfig, EvaluateConfig, GuardConfig
from livecc_jax.train.guard import Diverged
from livecc_jax.train.hooks import Hook
from livecc_jax.train.loop import train
from livecc_jax.train.preemption import Preempted, StopSignal
from tests.support.training import load_run_params, run_config, train_losses


def test_a_terminated_run_saves_and_resumes(home, straight):
    """SIGTERM in the middle: saved at the next step, though none was due, and no step runs twice."""
    run = home / "terminated"
    losses = {}

    def report(p):
        losses[p.step] = p.loss
        if p.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    rare = run_config(home, run, checkpoint=CheckpointConfig(every=100, keep=10))
    with pytest.raises(Preempted, match=r"saved at step 3 of \d+; started again"):
        train(rare, report)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert list_steps(run) == [3]
    rest = train_losses(rare)
    assert list(rest) == list(range(4, len(straight) + 1))
    assert {**{k: (v,) for k, v in losses.items()}, **{k: v[:1] for k, v in rest.items()}} == {
        k: v[:1] for k, v in straight.items()
    }
    expected = load_run_params(home / "straight")
    jax.tree.map(np.testing.assert_array_equal, expected, load_run_params(run))


def damage(step, kind):
    """Damages a checkpoint as a killed machine or a bad disk might."""
    data = max((step / "params/d").iterdir(), key=lambda f: f.stat().st_size)
    if kind == "truncated":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif kind == "missing":
        data.unlink()
    elif kind == "meta":
        (step / "meta/metadata").write_text('{"step": ')
    else:
        shutil.rmtree(step / "opt_state")


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "meta",
        pytest.param("missing", marks=pytest.mark.slow),
        pytest.param("no optimiser", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_newest_checkpoint_is_skipped(home, straight, tmp_path, caplog, kind):
    run = tmp_path / "run"
    shutil.copytree(home / "straight", run)
    newest, before = list_steps(run)[-1], list_steps(run)[-2]
    damage(run / str(newest), kind)
    with caplog.at_level(logging.WARNING, logger="livecc_jax"):
        again = train_losses(run_config(home, run))
    assert list(again) == list(range(before + 1, newest + 1))
    assert {k: straight[k] for k in again} == again
    assert f"going back before step {newest}" in caplog.text
    assert (run / f"{newest}.damaged").is_dir()
    assert list_steps(run)[-1] == newest  # written again


def test_an_error_names_the_newest_checkpoint_when_none_can_be_read(home, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(home / "straight", run)
    steps = list_steps(run)
    for step in steps:
        damage(run / str(step), "missing")
    with pytest.raises(CheckpointError, match=rf"run/{steps[-1]}: its params cannot be read"):
        train(run_config(home, run))
    assert list_steps(run) == steps  # nothing was set aside


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, caplog, capfd):
    """Files may not grow, as on a full disk; then they may again."""
    run = RunDirectory(tmp_path / "run", keep=5)
    run.create(preset("tiny"), LiveCCBlock(), None, {})
    params = {"w": jax.random.normal(jax.random.key(0), (256, 512))}

    def write(run, step):
        run.save(step, params)
        run.wait()

    write(run, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"could not be written .*too large.*; step 1 is intact"
        ):
            write(run, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    gc.collect()  # asyncio reports what no one has retrieved once it is dropped
    assert not [r for r in caplog.records if r.exc_info or "Traceback" in r.getMessage()]
    assert "Traceback" not in capfd.readouterr().err
    assert sorted(p.name for p in run.path.iterdir() if p.is_dir()) == ["1"]
    np.testing.assert_array_equal(run.restore_params(1)["w"], params["w"])
    run.save(2, params)
    run.close()
    assert list_steps(run.path) == [1, 2]


def test_keep_every_keeps_some_steps_indefinitely(tmp_path):
    run = RunDirectory(tmp_path / "run", keep=2, keep_every=4)
    for step in range(1, 11):
        run.save(step, {"w": jnp.ones(3)})
    run.close()
    assert list_steps(run.path) == [4, 8, 9, 10]


def test_saving_does_not_poll_the_preemption_service(tmp_path, monkeypatch):
    """JAX's preemption service supports one counter of polls, which is the loop's."""
    polls = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda step: bool(polls.append(step))
    )
    with StopSignal() as stop_signal:
        run = RunDirectory(tmp_path / "run")
        run.save(7, {"w": jnp.ones(3)})
        run.close()
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        assert not stop_signal.poll()
    assert list_steps(run.path) == [7]
    assert polls == [1]


class NanWeights(Hook):
    """Makes the target weights of a step NaN, and so its loss and gradients."""

    def __init__(self, step):
        self.step = step

    def after_batch(self, step, batch):
        if step == self.step:
            weights = batch.rows["target_weights"]
            batch.rows["target_weights"] = weights * np.float32("nan")


def test_a_nan_loss_stops_the_run_before_it(home, straight):
    run = home / "poisoned"
    with pytest.raises(Diverged, match=r"step 3: the loss is nan .* checkpoint is step 2 .*nan skip"):
        train(run_config(home, run), hooks=[NanWeights(3)])
    assert list_steps(run) == [2]
    (entry,) = map(json.loads, (run / "anomalies.jsonl").read_text().splitlines())
    assert (entry["step"], entry["what"], entry["policy"], entry["rows"]) == (3, "nan", "stop", [2, 3])
    assert entry["examples"]
    assert all(e["annotations"].endswith("train.jsonl") for e in entry["examples"])


@pytest.mark.slow
def test_a_nan_loss_is_skipped(home, straight):
    """From a checkpoint before it: the run continues without that update."""
    run = home / "skipping"
    train_losses(run_config(home, run), stop_at=2)
    first = max(list_steps(run), default=0) + 1
    rest = train_losses(run_config(home, run, guard=GuardConfig(nan="skip")), hooks=[NanWeights(3)])
    assert list(rest) == list(range(first, len(straight) + 1))
    assert not np.isfinite(rest[3][0])
    assert np.isfinite([v[0] for k, v in rest.items() if k > 3]).all()
    assert rest[4] != straight[4]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(load_run_params(run)))


@pytest.mark.slow
def test_held_out_loss_and_trace(home, straight, monkeypatch):
    """The held-out loss on the rows of the first step, before any update, is that step's loss."""
    run = home / "evaluated"
    logged = {}

    class WandbRun:
        def log(self, values, step):
            for name, value in values.items():
                logged.setdefault(step, {})[name] = value

        def finish(self, exit_code):
            pass

    fake = types.SimpleNamespace(init=lambda **settings: WandbRun())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    evaluate = EvaluateConfig(index=run_config(home, run).data.index, every=1, rows=1)
    settings = run_config(home, run, seed=0, evaluate=evaluate, profile="1-1", wandb="project")
    loss = train_losses(settings, stop_at=2)[1][0]  # the first step's learning rate is 0
    np.testing.assert_allclose(logged[1]["held_out/loss"], loss, rtol=1e-5)
    shares = [value for name, value in logged[1].items() if name.startswith("time/")]
    assert sum(shares) == pytest.approx(1)
    assert logged[1]["targets_per_second"] > 0
    assert any((run / "profile").rglob("*.xplane.pb"))
    with pytest.raises(ConfigError, match="profile 'some' is neither a number of steps"):
        train(dataclasses.replace(settings, run=str(home / "x"), profile="some"))
