"""Directories that appear by renaming, and what killed processes leave of them."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from livecc_jax.checkpoints.files import atomic_directory
from livecc_jax.errors import CheckpointError
from livecc_jax.writing import write_text
from tests.support.disk import file_size_limit

KILLED = """
import os, signal, sys
from pathlib import Path
from livecc_jax.checkpoints.files import atomic_directory
with atomic_directory(sys.argv[1], overwrite=True) as fresh:
    (fresh / "config.json").write_text("new")
    if sys.argv[2] == "replacing":
        rename = Path.rename
        def stop(self, target):
            if self == fresh:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)
        Path.rename = stop
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def write(destination, text="next"):
    with atomic_directory(destination, overwrite=True) as fresh:
        (fresh / "config.json").write_text(text)


def killed_while(what, destination):
    done = subprocess.run([sys.executable, "-c", KILLED, destination, what])
    assert done.returncode == -signal.SIGKILL


def test_the_folder_of_a_killed_conversion_is_removed_by_the_next(tmp_path):
    copy = tmp_path / "copy"
    killed_while("writing", copy)
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.copy\.new-.+-\d+", left.name)
    write(copy)
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    assert (copy / "config.json").read_text() == "next"


def test_a_directory_that_was_being_replaced_is_put_back(tmp_path):
    copy = tmp_path / "copy"
    write(copy, "earlier")
    killed_while("replacing", copy)
    assert not copy.exists()
    with pytest.raises(CheckpointError, match="copy: already exists"), atomic_directory(copy):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    assert (copy / "config.json").read_text() == "earlier"


def test_what_others_write_is_left_alone(tmp_path):
    """A living conversion, one of another host, and names that only begin alike."""
    host = re.sub(r"[^\w.]+", "-", socket.gethostname())
    living = tmp_path / f".copy.new-{host}-1"
    far, pid = tmp_path / ".copy.new-far-host-77", tmp_path / f".copy.new-{os.getppid()}"
    others = {living, far, pid, tmp_path / ".copy.new-mine", tmp_path / ".copy.newer-1"}
    for path in others:
        path.mkdir()
    handle = os.open(living, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    write(tmp_path / "copy")
    assert {*tmp_path.iterdir()} == others | {tmp_path / "copy"}
    os.close(handle)
    os.utime(far, (time.time() - 7200,) * 2)
    write(tmp_path / "copy")
    assert {*tmp_path.iterdir()} == others - {living, far} | {tmp_path / "copy"}


def test_earlier_versions_left_folders_with_a_process_id_alone(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for pid in (done.pid, os.getpid()):
        (tmp_path / f".copy.new-{pid}").mkdir()
    handle = os.open(tmp_path / f".copy.new-{os.getpid()}", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    write(tmp_path / "copy")
    assert {p.name for p in tmp_path.iterdir()} == {"copy", f".copy.new-{os.getpid()}"}
    os.close(handle)
    write(tmp_path / "copy")
    assert {p.name for p in tmp_path.iterdir()} == {"copy"}


def test_a_full_disk_is_one_sentence_about_the_destination(tmp_path):
    copy = tmp_path / "copy"
    write(copy, "earlier")

    def large():
        with atomic_directory(copy, overwrite=True) as fresh:
            write_text(fresh / "README.md", "x" * 2000)

    with file_size_limit(1000), pytest.raises(CheckpointError) as caught:
        large()
    assert str(caught.value) == f"{copy / 'README.md'}: cannot be written: File too large"
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    assert (copy / "config.json").read_text() == "earlier"
    with pytest.raises(
        CheckpointError, match=r"copy: needs 5000\.0 PB, but its disk has [\d.]+ [GT]B free"
    ):
        atomic_directory(copy, overwrite=True, needed_bytes=5 * 10**18).__enter__()
