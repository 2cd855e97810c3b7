"""Every benchmark in its authors' layout has the answers and the option logits of transformers."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from tests.goldens import choice_model

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens/choice.json").read_text())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Our answers, by benchmark."""
    root = tmp_path_factory.mktemp("released")
    checkpoint, questions = root / "named", root / "small"
    choice_model.write(checkpoint, questions)
    args = argparse.Namespace(
        model=str(checkpoint), root=questions, pixel_budget=48, max_frames=12, positions="mrope",
        dtype="float32", benchmarks=list(GOLDEN),
    )  # fmt: skip
    choice_model.load_released_choice().answer(args)
    lines = {b: (questions / f"out-{b}/answers.jsonl").read_text().splitlines() for b in GOLDEN}
    return {b: [json.loads(line) for line in each] for b, each in lines.items()}


@pytest.mark.parametrize("benchmark", GOLDEN)
def test_options_and_logits_are_those_of_transformers(benchmark, answers):
    """The resizes differ by at most 1/255 a pixel, and logits by a thousandth of their deviation."""
    theirs = GOLDEN[benchmark]
    assert len(answers[benchmark]) == len(theirs)
    for ours, (option, logits) in zip(answers[benchmark], theirs):
        assert ours["option"] == option
        np.testing.assert_allclose(ours["logits"], logits, atol=2e-3 * np.std(logits))
