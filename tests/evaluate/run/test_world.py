"""`livecc evaluate world` and `livecc score world`: from a folder to scores beside baselines."""

import json

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.encode import encode_example
from livecc_jax.data.examples.media_slice import load_patches
from livecc_jax.evaluate.metrics.world_clips import read_world
from livecc_jax.evaluate.run.run_folder import all_answers
from livecc_jax.evaluate.run.world import clip_frames
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patchify
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.world.dataset import WorldOptions, write_dataset
from livecc_jax.world.match import MatchOptions

BUDGET = PixelBudget.parse(2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of a world with two held-out matches of 12 s."""
    out = tmp_path_factory.mktemp("world")
    match = MatchOptions(seconds=(12.0, 12.0))
    write_dataset(WorldOptions(0, held_out=2, match=match, size=(28, 56), styles=("calm",)), out)
    return out


def write_lines(path, world, said):
    """Writes predictions: `said(clip)` gives (second, text) of each turn."""
    lines = []
    for clip in read_world(world):
        turns = [{"start": t - 1, "stop": t, "said": t, "text": text} for t, text in said(clip)]
        video = clip.facts.group
        lines.append({"video_id": video, "video_start": 0, "video_end": 12, "turns": turns})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def own_words(clip):
    return [(w.end_us / 1e6, w.text) for w in clip.facts.reference.words]


def test_scores_of_known_commentaries(world, tmp_path, capsys):
    clips = read_world(world)
    assert [c.facts.group for c in clips] == ["held-00000", "held-00001"]
    assert all(clip.second for clip in clips)
    own = write_lines(tmp_path / "own.jsonl", world, own_words)
    silent = write_lines(tmp_path / "silent.jsonl", world, lambda clip: [])
    out = tmp_path / "out.json"
    args = ["--reference", str(world), "--json", str(out), "--resamples", "50"]
    assert main(["score", "world", own, "--baseline", silent, *args]) == 0
    record, printed = json.loads(out.read_text()), capsys.readouterr().out
    metrics = record["metrics"]
    for name in ("fact F1, in time", "fact F1, at any time", "true facts", "seconds told right"):
        assert metrics["prediction"][name] == 100
    assert metrics["silence only"]["fact F1, in time"] == 0
    assert metrics["silent.jsonl"]["fact F1, in time"] == 0
    # The second draw is true throughout, but another one.
    assert metrics["second draw"]["true facts"] == 100
    assert 0 < metrics["second draw"]["fact F1, in time"] < 100
    assert record["share_of_ceiling"] == 100 / metrics["second draw"]["fact F1, in time"]
    assert record["win_rates"]["silence only"] == {
        "wins": 2, "ties": 0, "losses": 0, "rate": 100, "interval": [100, 100]
    }  # fmt: skip
    assert record["errors"]["right, in time"] == sum(len(c.facts.facts) for c in clips)
    assert record["errors"]["missed"] == 0
    assert "of a ceiling of" in printed
    assert main(["score", "world", own]) == 2
    assert "--reference" in capsys.readouterr().err
    assert main(["score", "world", own, "--reference", str(tmp_path)]) == 2
    assert "livecc world" in capsys.readouterr().err


def test_frames_are_those_of_training(world):
    """The frames that a stream shows have the patches of the training example."""
    clip = read_world(world)[0]
    template = ChatTemplate(open_tokenizer(world / "tokenizer"))
    example = encode_example(
        AnnotationFile(world / "held_out/clean.jsonl")[0], template, BUDGET, silent_tail=99
    )
    frames = clip_frames(clip, BUDGET)
    assert len(frames) == 24
    np.testing.assert_array_equal(patchify(frames)[0], load_patches(example.media[0]).reshape(-1, 1176))
    assert clip.prompt == example.prompt


def test_evaluation_of_a_model(checkpoint, world, tmp_path, capsys):
    """A model without training: predictions, both baselines that run it, and what resumes."""
    out = tmp_path / "out"
    args = ["evaluate", "world", checkpoint, "--data", str(world), "--out", str(out), "--batch", "2"]
    args += ["--pixel-budget", "2", "--max-new-tokens", "3"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert list(report["metrics"]) == [
        "prediction", "second draw", "last four frames", "text only", "silence only",
        "copy of the previous commentary",
    ]  # fmt: skip
    assert report["clips"] == 2
    assert "what is wrong" in printed
    answers = all_answers(out)
    turns = [(t["start"], t["stop"]) for t in answers["held-00000@0-12"]["turns"]]
    assert turns == [(0, 3), *((t, t + 1) for t in range(3, 12))]
    without = all_answers(out / "last-four-frames")
    assert without.keys() == answers.keys() == all_answers(out / "text-only").keys()
    assert main(args) == 0
    assert "0 clips answered" in capsys.readouterr().out
    assert (out / "report.html").stat().st_size > 1000
    assert main([*args, "--memory", "4"]) == 2
    assert main([*args, "--batch", "0"]) == 2
