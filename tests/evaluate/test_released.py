"""Every benchmark in its authors' layout, end to end, beside what transformers answers."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from tests.goldens import choice_model

GOLDENS = Path(__file__).parents[1] / "goldens"

GOLDEN = json.loads((GOLDENS / "choice.json").read_text())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What ours answers, by benchmark."""
    root = tmp_path_factory.mktemp("released")
    checkpoint, questions = root / "named", root / "small"
    choice_model.make(checkpoint, questions)
    args = argparse.Namespace(
        model=str(checkpoint), root=questions, pixel_budget=48, max_frames=12, positions="mrope",
        dtype="float32", benchmarks=list(GOLDEN),
    )  # fmt: skip
    choice_model.released_choice().ours(args)
    lines = {b: (questions / f"out-{b}/answers.jsonl").read_text().splitlines() for b in GOLDEN}
    return {b: [json.loads(line) for line in each] for b, each in lines.items()}


@pytest.mark.parametrize("benchmark", GOLDEN)
def test_the_options_chosen_are_transformers(benchmark, answers):
    """Frames differ by 1/255 at most between the two resizes, so logits by a thousandth of them."""
    theirs = GOLDEN[benchmark]
    assert len(answers[benchmark]) == len(theirs)
    for ours, (option, logits) in zip(answers[benchmark], theirs):
        assert ours["option"] == option
        np.testing.assert_allclose(ours["logits"], logits, atol=2e-3 * np.std(logits))
