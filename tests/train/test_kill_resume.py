"""The kill-and-resume benchmark with two processes that are killed twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_killed_processes_train_the_same(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/kill_resume.py", "--processes", "2", "--kills", "2"]
    done = subprocess.run([*command, "--steps", "8", "--out", tmp_path], timeout=580)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["every_step_read_the_same_rows"]
    assert result["losses_bitwise_equal"]
    assert result["parameters_bitwise_equal"]
    assert done.returncode == 0
