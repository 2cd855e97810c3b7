"""`livecc evaluate` on multiple choice: from the authors' layout to a report, resumable and sharded."""

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.evaluate.benchmarks.annotations import QUESTION_READERS
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.run.run_folder import all_answers, read_answers
from livecc_jax.evaluate.run.sampled_video import sample_video
from livecc_jax.media.budget import PixelBudget
from tests.support.benchmark_data import (
    BIKES,
    SMALL_OPTIONS,
    WRITERS,
    run_evaluate,
    write_videomme,
)


class Interrupt(logging.Handler):
    """Interrupts the run when it logs a message."""

    def emit(self, record):
        raise KeyboardInterrupt


def test_an_interrupted_run_resumes(checkpoint, tmp_path, capsys):
    """It has the same answers; a missing video is counted, and tried again."""
    data = write_videomme(tmp_path / "videomme")
    complete, interrupted = tmp_path / "complete", tmp_path / "interrupted"
    assert run_evaluate("videomme", checkpoint, data, complete) == 0
    out = capsys.readouterr().out
    assert "6 questions answered" in out
    assert "3 could not be answered" in out
    assert "3 unanswered" in out
    assert "Annotation problems: 1 malformed, 1 duplicate." in out
    expected = read_answers(complete / "answers.jsonl")
    assert "gone.mp4" in expected["003-1"]["error"]

    # The interrupt comes when the missing video is logged: the one before is submitted already.
    logger, handler = logging.getLogger("livecc_jax.evaluate.run.prefetch"), Interrupt()
    logger.addHandler(handler)
    try:
        assert run_evaluate("videomme", checkpoint, data, interrupted) == 130
    finally:
        logger.removeHandler(handler)
    path = interrupted / "answers.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 6
    # As if the process was killed within a line, and within the questions of a video.
    path.write_text("\n".join(lines[:2]) + "\n" + lines[2][:25])
    # The other questions are answered on four devices, two videos at a time.
    mesh = ("--mesh", "data=2,tensor=2")
    assert run_evaluate("videomme", checkpoint, data, interrupted, *mesh) == 0
    assert "4 questions answered in" in capsys.readouterr().out
    answers = read_answers(path)
    assert answers.keys() == expected.keys()
    for question_id, answer in answers.items():
        assert answer.get("response") == expected[question_id].get("response")
        np.testing.assert_allclose(
            answer.get("logits", []), expected[question_id].get("logits", []), atol=1e-3
        )
    for name in ("results.json", "report.md", "report.html", "report.json", "run.json"):
        assert (interrupted / name).stat().st_size
    page = (interrupted / "report.html").read_text()
    assert "data:image/jpeg;base64," in page  # frames of wrong answers
    assert ">chance</text>" in page
    # Once the missing video is there, only its questions are answered.
    shutil.copy(BIKES, data / "data/gone.mp4")
    assert run_evaluate("videomme", checkpoint, data, interrupted) == 0
    assert "3 questions answered in" in capsys.readouterr().out
    assert main(["compare", str(complete), str(interrupted)]) == 0
    assert "9 items are in both" in capsys.readouterr().out
    # Answers count however the run is divided.
    assert run_evaluate("videomme", checkpoint, data, interrupted, "--share", "1/2") == 0
    assert "0 questions answered in" in capsys.readouterr().out
    # Answers of other settings are not mixed with these.
    assert run_evaluate("videomme", checkpoint, data, interrupted, "--positions", "sequential") == 2
    assert "was begun with positions 'mrope'" in capsys.readouterr().err
    assert run_evaluate("videomme", checkpoint, data, interrupted, "--limit", "0") == 2


def test_two_processes_write_what_one_does(checkpoint, tmp_path):
    """Connected processes resume what one process began: the same results, one report."""
    data, one, two = write_videomme(tmp_path / "videomme"), tmp_path / "one", tmp_path / "two"
    assert run_evaluate("videomme", checkpoint, data, one) == 0
    shutil.copytree(one, two)
    lines = (two / "answers.jsonl").read_text().splitlines(keepends=True)
    (two / "answers.jsonl").write_text(lines[1])
    for name in ("results.json", "report.json"):
        (two / name).unlink()
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = ["evaluate", "videomme", checkpoint, "--data", str(data), "--out", str(two)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "livecc_jax.cli", *command, *SMALL_OPTIONS],
            cwd=Path(__file__).parents[3],
            text=True,
            stdout=subprocess.PIPE,
            env=os.environ
            | {
                "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
                "TPU_SKIP_MDS_QUERY": "1",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(number),
            },
        )
        for number in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0]
    # The first process has two of the three videos, one of which is missing; the second has one.
    assert "2 questions answered" in outputs[0]
    assert "3 questions answered" in outputs[1]
    assert [("report.md" in output) for output in outputs] == [True, False]
    assert sorted(p.name for p in two.glob("answers*")) == [
        "answers-0-of-2.jsonl", "answers-1-of-2.jsonl", "answers.jsonl"
    ]  # fmt: skip
    assert (two / "results.json").read_text() == (one / "results.json").read_text()
    reports = [json.loads((folder / "report.json").read_text()) for folder in (one, two)]
    assert [r["setting"]["processes"] for r in reports] == [1, 2]
    assert reports[0]["counts"] == reports[1]["counts"]


@pytest.mark.parametrize(
    ("benchmark", "questions", "videos"),
    [("mvbench", 2, 2), ("ovobench", 7, 6), ("livesports-qa", 2, 1)],
)
def test_each_benchmark(benchmark, questions, videos, checkpoint, tmp_path, capsys):
    """From files to a table; each span of a video is loaded once for all its questions."""
    data, out = WRITERS[benchmark](tmp_path / "data"), tmp_path / "out"
    # Two shards divide the videos; the second to finish writes the report.
    for share in ("0/2", "1/2"):
        assert run_evaluate(benchmark, checkpoint, data, out, "--share", share) == 0
    printed = capsys.readouterr().out
    assert sum(map(int, re.findall(r"answered in \d+ s \((\d+) videos\)", printed))) == videos
    report = json.loads((out / "report.json").read_text())
    assert report["counts"]["items"] == questions
    assert report["counts"]["unanswered"] == 0
    assert report["setting"]["annotation_sha256"]
    assert "95% interval" in printed
    question_by_id = {q.id: q for q in QUESTION_READERS[benchmark](data).questions}
    answers = all_answers(out)
    assert answers.keys() == question_by_id.keys()
    for question_id, answer in answers.items():
        best = int(np.argmax(answer["logits"]))
        assert answer["response"] == question_by_id[question_id].responses[best]


def test_last_frames_beside_the_whole_video(checkpoint, tmp_path, capsys):
    """The baseline without memory: its logits are those of a run that sees only those frames."""
    data, out = write_videomme(tmp_path / "videomme"), tmp_path / "out"
    assert run_evaluate("videomme", checkpoint, data, out, "--last-frames", "4") == 0
    printed = capsys.readouterr().out
    assert "overall: the last 4 frames alone" in printed
    assert "whole videos" in printed
    whole, last = all_answers(out), all_answers(out / "last-4-frames")
    assert whole.keys() == last.keys()
    assert any(a.get("logits") != last[i].get("logits") for i, a in whole.items())
    # A video of four sampled frames has no other ones.
    same = tmp_path / "same"
    more = ("--last-frames", "4", "--max-frames", "4")
    assert run_evaluate("videomme", checkpoint, data, same, *more) == 0
    assert all_answers(same) == all_answers(same / "last-4-frames")
    assert "difference" in json.loads((out / "report.json").read_text())
    assert run_evaluate("videomme", checkpoint, data, tmp_path / "x", "--last-frames", "3") == 2
    assert "even" in capsys.readouterr().err


def test_last_frames_are_the_last(tmp_path):
    """Their patches are the last ones of the whole video, at the same size."""
    source, budget = VideoSource(str(BIKES)), PixelBudget.parse("reference")
    whole, last = sample_video(source, budget), sample_video(source, budget, last_frames=4)
    assert last.grid == (2, *whole.grid[1:])
    np.testing.assert_array_equal(last.patches, whole.patches[-2:])
