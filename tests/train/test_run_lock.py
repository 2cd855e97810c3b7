"""The lock of a run directory: of a living trainer, a killed one, and one on another machine."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from livecc_jax import directory_lock
from livecc_jax.errors import ConfigError, OutputError
from livecc_jax.train import run_lock
from livecc_jax.train.run_lock import LOCK, RunLock, locked_run
from tests.support.disk import file_size_limit

HOLD = """
import sys, time
from pathlib import Path
from livecc_jax.train.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_trainer_is_refused_until_the_first_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(directory_lock, "RELEASE_SECONDS", 0.1)
    run = tmp_path / "run"
    first = RunLock(run)
    assert first.is_held()
    with pytest.raises(ConfigError, match=rf"run: process {os.getpid()} on \S+ trains this run"):
        RunLock(run)
    assert first.is_held()
    first.release()
    assert not list(run.iterdir())
    RunLock(run).release()


def test_the_lock_of_a_killed_trainer_is_taken_at_once(tmp_path, monkeypatch, caplog):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(directory_lock, "RELEASE_SECONDS", 0.1)
        with pytest.raises(ConfigError, match=f"process {holder.pid} on"):
            RunLock(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / LOCK).is_file()
    start = time.monotonic()
    lock = RunLock(tmp_path)
    assert time.monotonic() - start < 2
    assert f"process {holder.pid} on" in caplog.text
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    lock.release()


@pytest.mark.parametrize("alive", [True, False])
def test_another_machine_is_alive_if_it_touches_its_lock(tmp_path, alive):
    """Its file lock may not be visible here, as on some network file systems."""
    path = tmp_path / LOCK
    path.write_text(json.dumps({"host": "far", "pid": 7, "machine": "another", "started": "then"}))
    os.utime(path, (1, 1))  # its clock says something else
    if alive:
        threading.Timer(0.15, os.utime, (path, (2, 2))).start()
        with pytest.raises(ConfigError, match=r"process 7 on far trains this run \(since then\)"):
            RunLock(tmp_path, stale_seconds=2.0)
    else:
        RunLock(tmp_path, stale_seconds=0.3).release()


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": ', "[" * 4000])
def test_a_damaged_lock_is_one_of_another_machine(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    RunLock(tmp_path, stale_seconds=0.1).release()


def test_a_living_trainer_gives_signs_of_life(tmp_path):
    lock = RunLock(tmp_path, touch_seconds=0.02)
    os.utime(tmp_path / LOCK, (1, 1))
    deadline = time.monotonic() + 5
    while (tmp_path / LOCK).stat().st_mtime == 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()


def test_a_lock_that_finds_no_room_is_one_sentence(tmp_path):
    with file_size_limit(1), pytest.raises(OutputError, match="cannot be written: File too large"):
        RunLock(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_main_process_locks_for_all_processes_of_a_run(tmp_path, monkeypatch):
    with locked_run(tmp_path):
        monkeypatch.setattr(run_lock, "is_main_process", lambda: False)
        with locked_run(tmp_path) as lock:  # another process of the same run
            assert lock is None
        monkeypatch.setattr(run_lock, "broadcast_from_main", lambda value: "run: is trained")
        with pytest.raises(ConfigError, match="run: is trained"), locked_run(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_replaced_directory_is_noticed(tmp_path):
    run = tmp_path / "run"
    lock = RunLock(run)
    run.rename(tmp_path / "moved")
    assert not lock.is_held()
    other = RunLock(run)
    assert not lock.is_held()
    lock.release()
    assert other.is_held()
    other.release()
