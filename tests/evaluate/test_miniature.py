"""The system learns: two shapes and few words, from rendered frames to commentary scored by facts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASELINES = ("last four frames", "text only", "silence only", "copy of the previous commentary")


@pytest.mark.timeout(1500)  # a minute of two cores, but there may be others on them
def test_the_miniature_beats_its_baselines(tmp_path):
    """Trained from scratch in a minute, on matches that are not those of the test.

    When to speak is learned within the minute, and only the pictures say when: events come after 2.2 to
    4.6 s. Who it was is learned in part. The process is one of its own, whose compiler optimises: the
    suite's does not.
    """
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
    env |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.support.miniature", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    metrics = json.loads((tmp_path / "out/report.json").read_text())["metrics"]

    def margin(metric):
        """Points by which the model is better than the best baseline."""
        best = max(metrics[method][metric] or 0.0 for method in BASELINES)
        return metrics["prediction"][metric] - best

    # Measured: 95.7% against 67.4%, 100% against 77%, 30.7% against 15.8%.
    assert metrics["second draw"]["fact F1, in time"] > 95
    assert metrics["prediction"]["seconds told right"] > 85
    assert margin("seconds told right") > 15, metrics
    assert metrics["prediction"]["trigger F1"] > 85
    assert margin("trigger F1") > 8, metrics
    assert margin("fact F1, in time") > 5, metrics
