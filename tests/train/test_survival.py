"""What ends a run early, and what does not: signals, damage, full disks, bad steps."""

import dataclasses
import json
import logging
import os
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.run import RunDirectory, steps_of
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.model.presets import preset
from livecc_jax.train import loop
from livecc_jax.train.config import CheckpointConfig, EvaluateConfig, GuardConfig
from livecc_jax.train.guard import Diverged
from livecc_jax.train.preempt import Notice, Preempted
from tests.support.training import config, losses, params_of


def test_a_terminated_run_saves_and_goes_on(home, straight):
    """SIGTERM in the middle: saved at the next step though none was due, and nothing is done twice."""
    run = home / "terminated"
    seen = {}

    def report(p):
        seen[p.step] = p.loss
        if p.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    rare = config(home, run, checkpoint=CheckpointConfig(every=100, keep=10))
    with pytest.raises(Preempted, match=r"saved at step 3 of \d+; started again"):
        loop.train(rare, report)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert steps_of(run) == [3]
    rest = losses(rare)
    assert list(rest) == list(range(4, len(straight) + 1))
    assert {**{k: (v,) for k, v in seen.items()}, **{k: v[:1] for k, v in rest.items()}} == {
        k: v[:1] for k, v in straight.items()
    }
    jax.tree.map(np.testing.assert_array_equal, params_of(home / "straight"), params_of(run))


def damage(step, kind):
    """Spoil a checkpoint as a killed machine or a bad disk might."""
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
def test_a_damaged_newest_checkpoint_is_passed_over(home, straight, tmp_path, caplog, kind):
    run = tmp_path / "run"
    shutil.copytree(home / "straight", run)
    newest, before = steps_of(run)[-1], steps_of(run)[-2]
    damage(run / str(newest), kind)
    with caplog.at_level(logging.WARNING, logger="livecc_jax"):
        again = losses(config(home, run))
    assert list(again) == list(range(before + 1, newest + 1))
    assert {k: straight[k] for k in again} == again
    assert f"going back before step {newest}" in caplog.text
    assert (run / f"{newest}.damaged").is_dir()
    assert steps_of(run)[-1] == newest  # made again


def test_when_nothing_can_be_read_the_run_says_so(home, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(home / "straight", run)
    kept = steps_of(run)
    for step in kept:
        damage(run / str(step), "missing")
    with pytest.raises(CheckpointError, match=rf"run/{kept[-1]}: its params cannot be read"):
        loop.train(config(home, run))
    assert steps_of(run) == kept  # nothing was set aside


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
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
            CheckpointError, match=r"could not be written .*too large.*; step 1 is whole and stays"
        ):
            write(run, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in run.path.iterdir() if p.is_dir()) == ["1"]
    np.testing.assert_array_equal(run.restore_params(1)["w"], params["w"])
    run.save(2, params)
    run.close()
    assert steps_of(run.path) == [1, 2]


def test_some_steps_are_kept_for_ever(tmp_path):
    run = RunDirectory(tmp_path / "run", keep=2, keep_every=4)
    for step in range(1, 11):
        run.save(step, {"w": jnp.ones(3)})
    run.close()
    assert steps_of(run.path) == [4, 8, 9, 10]


def test_saving_asks_nobody_about_preemption(tmp_path, monkeypatch):
    """The service that agrees on a step to save at knows one count of polls: the loop's."""
    asked = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step))
    )
    with Notice() as notice:
        run = RunDirectory(tmp_path / "run")
        run.save(7, {"w": jnp.ones(3)})
        run.close()
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        assert not notice.reached()
    assert steps_of(run.path) == [7]
    assert asked == [1]


@pytest.fixture
def poisoned(monkeypatch):
    """The weights of the `bad`-th batch that is placed are no numbers."""
    place = loop.place_batch
    poison = {"step": 0, "bad": 3}

    def placed(mesh, rows, accumulate):
        poison["step"] += 1
        if poison["step"] == poison["bad"]:
            rows = rows | {"target_weights": rows["target_weights"] * np.float32("nan")}
        return place(mesh, rows, accumulate)

    monkeypatch.setattr(loop, "place_batch", placed)
    return poison


def test_a_loss_that_is_no_number_stops_the_run_before_it(home, straight, poisoned, caplog):
    run = home / "poisoned"
    with pytest.raises(Diverged, match=r"step 3: the loss is nan .* checkpoint is step 2 .*nan skip"):
        loop.train(config(home, run))
    assert steps_of(run) == [2]
    (entry,) = map(json.loads, (run / "anomalies.jsonl").read_text().splitlines())
    assert (entry["step"], entry["what"], entry["policy"], entry["rows"]) == (3, "nan", "stop", [2, 3])
    assert entry["examples"]
    assert all(e["annotations"].endswith("train.jsonl") for e in entry["examples"])


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_skipped(home, straight, poisoned):
    """From a checkpoint before it: the run goes on without that update."""
    run = home / "skipping"
    losses(config(home, run), stop_at=2)
    first = max(steps_of(run), default=0) + 1
    poisoned.update(step=0, bad=4 - first)
    rest = losses(config(home, run, guard=GuardConfig(nan="skip")))
    assert list(rest) == list(range(first, len(straight) + 1))
    assert not np.isfinite(rest[3][0])
    assert np.isfinite([v[0] for k, v in rest.items() if k > 3]).all()
    assert rest[4] != straight[4]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params_of(run)))


@pytest.mark.slow
def test_held_out_loss_and_trace(home, straight, monkeypatch):
    """Of rows that are those of the first step, before any learning: the loss of the first step."""
    run = home / "evaluated"
    told = {}
    add = loop.Board.add
    monkeypatch.setattr(
        loop.Board,
        "add",
        lambda self, values, step, prefix="": (
            told.setdefault(prefix + str(step), values),
            add(self, values, step, prefix),
        ),
    )
    evaluate = EvaluateConfig(index=config(home, run).data.index, every=1, rows=1)
    settings = config(home, run, seed=0, evaluate=evaluate, profile="1-1")
    loss = losses(settings, stop_at=2)[1][0]  # the first step's learning rate is 0
    np.testing.assert_allclose(told["held_out/1"]["loss"], loss, rtol=1e-5)
    assert sum(told["time/1"].values()) == pytest.approx(1)
    assert told["1"]["targets_per_second"] > 0
    assert any((run / "profile").rglob("*.xplane.pb"))
    with pytest.raises(ConfigError, match="profile 'some' is neither a number of steps"):
        loop.train(dataclasses.replace(settings, run=str(home / "x"), profile="some"))
