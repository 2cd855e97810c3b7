"""Two processes exchange values, and both handle a SIGTERM to one of them at the same poll."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

WORKER = """
import sys, time
from livecc_jax.parallel import processes
processes.initialize_processes()
from livecc_jax.train.preemption import StopSignal
import jax
index = jax.process_index()
values = processes.gather_json({"from": index, "text": "x" * (index * 1000)})
assert [v["from"] for v in values] == [0, 1] and len(values[1]["text"]) == 1000, values
assert processes.broadcast_from_main(index + 5) == 5
assert processes.all_processes_agree(True) and not processes.all_processes_agree(index == 0)
print("ready", flush=True)
with StopSignal() as stop_signal:
    for poll in range(1, 2000):
        processes.gather_json(poll)  # as a step does, so that neither is far ahead
        if stop_signal.poll():
            assert stop_signal.poll()
            print("stopped at poll", poll, flush=True)
            break
        time.sleep(0.01)
"""


def test_a_signal_to_one_process_stops_all_at_the_same_poll():
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
        outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert "stopped at poll " in outputs[0]
    assert outputs[0] == outputs[1]
    assert [worker.returncode for worker in workers] == [0, 0]
