"""The guard: which steps are harmful, and which updates are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.train.config import GuardConfig
from livecc_jax.train.guard import VERDICTS, guard_state_to_json, guard_step, init_guard_state


def run_guarded(losses, config, saved=None):
    """Runs a guarded toy step whose parameter sums the losses of all updates that were accepted."""
    mesh = make_mesh(MeshConfig(devices=1))
    state = {"params": jnp.zeros(()), "guard": init_guard_state(config, mesh, saved)}

    def step(state, loss):
        return {"params": state["params"] + loss}, {"loss": loss, "grad_norm": loss}

    guarded = jax.jit(guard_step(step, config))
    verdicts = []
    for loss in losses:
        state, metrics = guarded(state, jnp.float32(loss))
        verdicts.append(VERDICTS[int(metrics["verdict"])])
    return float(state["params"]), verdicts, state["guard"]


def test_bad_steps_are_skipped_and_spikes_are_relative_to_the_median():
    config = GuardConfig(nan="skip", spike="skip", factor=2.0, window=4)
    series = [5, 1, 1, 1.5, 2.4, np.nan, 1, 2.1, np.inf, 1]
    total, verdicts, guard = run_guarded(series, config)
    # Of 5, 1, 1, 1.5 the median is 1.25: 2.4 passes; of 1, 1.5, 2.4, 1 it is 1.25 again: so does 2.1.
    assert verdicts == ["good"] * 5 + ["nan", "good", "good", "nan", "good"]
    assert total == pytest.approx(np.nansum([x for x in series if np.isfinite(x)]))
    _, verdicts, _ = run_guarded([1, 1, 1, 1, 2.5, 1], config)
    assert verdicts == ["good"] * 4 + ["spike", "good"]
    # The state in a checkpoint continues, with another window too.
    saved = json.loads(json.dumps(guard_state_to_json(guard)))
    np.testing.assert_allclose(saved["losses"], [2.4, 1, 2.1, 1])
    assert run_guarded([9], config, saved)[1] == ["spike"]
    wider = GuardConfig(nan="skip", spike="skip", factor=2.0, window=5)
    assert run_guarded([9, 1, 30], wider, saved)[1] == ["good", "good", "spike"]


def test_without_skip_a_bad_step_is_only_reported():
    config = GuardConfig(nan="stop", spike="ignore", window=2)
    total, verdicts, guard = run_guarded([1, np.nan, 1], config)
    assert np.isnan(total)
    assert verdicts[:2] == ["good", "nan"]
    assert int(guard["refused"]) == 0
