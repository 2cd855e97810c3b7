"""The kill-and-resume benchmark, small: two processes, killed twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_killed_twice_learn_the_same(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/kill_resume.py", "--processes", "2", "--kills", "2"]
    done = subprocess.run([*command, "--steps", "8", "--out", tmp_path], timeout=580)
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["every_step_read_the_same_rows"]
    assert found["losses_bitwise_equal"]
    assert found["parameters_bitwise_equal"]
    assert done.returncode == 0
