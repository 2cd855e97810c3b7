"""Errors in the environment variables that describe the processes of a run."""

import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.parallel.processes import initialize_processes

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "sets no JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "must be numbers, not 'two' and '0'"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID is 2, but"),
    ],
)
def test_wrong_variables_are_named(monkeypatch, environment, sentence):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if len(environment) == 2:
        environment = environment | {"JAX_COORDINATOR_ADDRESS": "localhost:1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=sentence):
        initialize_processes()
