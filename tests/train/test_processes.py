"""Several processes: they find each other, share what they know, and heed a signal at the same poll."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.parallel.processes import start_processes

ROOT = Path(__file__).parents[2]

WORKER = """
import sys, time
from livecc_jax.parallel import processes
processes.start_processes()
from livecc_jax.train.preempt import Notice
import jax
me = jax.process_index()
values = processes.gather({"from": me, "text": "x" * (me * 1000)})
assert [v["from"] for v in values] == [0, 1] and len(values[1]["text"]) == 1000, values
assert processes.from_first(me + 5) == 5
assert processes.all_agree(True) and not processes.all_agree(me == 0)
print("ready", flush=True)
with Notice() as notice:
    for poll in range(1, 2000):
        processes.gather(poll)  # as a step does, so that neither is far ahead
        if notice.reached():
            assert notice.reached()
            print("told", poll, flush=True)
            break
        time.sleep(0.01)
"""


def test_a_signal_to_one_is_heeded_by_all_at_the_same_poll():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    workers = []
    for p in range(2):
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(p),
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER], env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE
            )
        )
    try:
        for worker in workers:
            assert "ready\n" in iter(worker.stdout.readline, "")
        time.sleep(0.1)
        workers[1].send_signal(signal.SIGTERM)
        said = [worker.communicate(timeout=60)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert "told " in said[0]
    assert said[0] == said[1]
    assert [worker.returncode for worker in workers] == [0, 0]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "sets no JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "must be numbers, not 'two' and '0'"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID is 2, but"),
    ],
)
def test_wrong_variables_are_named(monkeypatch, given, sentence):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    if len(given) == 2:
        given = given | {"JAX_COORDINATOR_ADDRESS": "localhost:1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=sentence):
        start_processes()
