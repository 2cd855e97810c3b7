"""The parts that look after a run, each alone."""

import json
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.train.clock import Clock
from livecc_jax.train.config import GuardConfig
from livecc_jax.train.guard import VERDICTS, begin_guard, guard_json, guarded
from livecc_jax.train.watchdog import GIVEN_UP, Beat, Watchdog, describe


def walk(losses, config, saved=None):
    """A toy run whose weight adds up the losses that were let through."""
    mesh = make_mesh(MeshConfig(devices=1))
    state = {"params": jnp.zeros(()), "guard": begin_guard(config, mesh, saved)}

    def step(state, loss):
        return {"params": state["params"] + loss}, {"loss": loss, "grad_norm": loss}

    run = jax.jit(guarded(step, config))
    verdicts = []
    for loss in losses:
        state, metrics = run(state, jnp.float32(loss))
        verdicts.append(VERDICTS[int(metrics["verdict"])])
    return float(state["params"]), verdicts, state["guard"]


def test_bad_steps_are_skipped_and_spikes_are_seen_from_the_median():
    config = GuardConfig(nan="skip", spike="skip", factor=2.0, window=4)
    series = [5, 1, 1, 1.5, 2.4, np.nan, 1, 2.1, np.inf, 1]
    total, verdicts, guard = walk(series, config)
    # Of 5, 1, 1, 1.5 the median is 1.25: 2.4 passes; of 1, 1.5, 2.4, 1 it is 1.25 again: so does 2.1.
    assert verdicts == ["good"] * 5 + ["nan", "good", "good", "nan", "good"]
    assert total == pytest.approx(np.nansum([x for x in series if np.isfinite(x)]))
    _, verdicts, _ = walk([1, 1, 1, 1, 2.5, 1], config)
    assert verdicts == ["good"] * 4 + ["spike", "good"]
    # What a checkpoint remembers goes on where it was, with another window too.
    kept = json.loads(json.dumps(guard_json(guard)))
    np.testing.assert_allclose(kept["losses"], [2.4, 1, 2.1, 1])
    assert walk([9], config, kept)[1] == ["spike"]
    wider = GuardConfig(nan="skip", spike="skip", factor=2.0, window=5)
    assert walk([9, 1, 30], wider, kept)[1] == ["good", "good", "spike"]


def test_what_is_not_skipped_is_only_told():
    total, verdicts, guard = walk([1, np.nan, 1], GuardConfig(nan="stop", spike="ignore", window=2))
    assert np.isnan(total)
    assert verdicts[:2] == ["good", "nan"]
    assert int(guard["refused"]) == 0


def test_every_second_is_in_one_account_over_restarts():
    now = 100.0

    def tick():
        return now

    clock = Clock(now=tick)
    for account, seconds in (("start", 10), ("step", 30), ("data", 5), ("step", 5)):
        now += seconds
        clock.spent(account)
    saved = json.loads(json.dumps(clock.to_json()))
    now += 50  # steps that a crash undoes, and waiting for a machine
    later = Clock(saved, now=tick)
    now += 20
    later.spent("step")
    assert later.seconds["lost"] == 50
    assert sum(later.seconds.values()) == now - 100
    assert later.goodput() == pytest.approx(55 / 120)
    assert sum(later.shares().values()) == pytest.approx(1)


def test_the_late_host_is_named():
    def beat(process, step, phase, seconds=400.0, written=1000.0):
        return Beat(process, f"host-{process}", step, phase, seconds, written)

    others = [beat(p, 18, "step") for p in range(3)]
    said = describe([*others, beat(3, 18, "rows")], 1001, 30, 4)
    assert (
        said
        == "late is host-3 (process 3): at step 18, reading rows for 401 s; the other 3 are further"
    )
    assert "all 3 processes are at step 18, waiting for the devices" in describe(others, 1001, 30, 3)
    gone = describe([*others, beat(3, 17, "step", written=900.0)], 1001, 30, 5)
    assert (
        gone == "host-3 (process 3) has not been heard of for 101 s; process 4 has never been heard of"
    )


def test_a_watchdog_speaks_once_and_gives_up(tmp_path, caplog):
    ended = []
    with (
        caplog.at_level(logging.WARNING, logger="livecc_jax"),
        Watchdog(tmp_path, 0, 1, late=0.2, give_up=0.6, end=ended.append) as dog,
    ):
        dog.at(7, "rows")
        dog.stepped()
        by = time.time() + 10
        while not ended and time.time() < by:
            time.sleep(0.02)
    assert ended[0] == GIVEN_UP
    assert caplog.text.count("no step has ended") - caplog.text.count("giving up") == 1
    assert "all 1 processes are at step 7, reading rows" in caplog.text
