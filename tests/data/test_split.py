"""Clips that are longer than a row, cut at turn boundaries."""

import json
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.example import plan_example
from livecc_jax.data.examples.split import cut, split_example
from livecc_jax.data.index.build import build_index
from livecc_jax.errors import ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate

ROOT = Path(__file__).parents[2]
NARRATION = ROOT / "data/annotations/narration.jsonl"
BUDGET = PixelBudget.parse(24)


@pytest.fixture(scope="module")
def template():
    return ChatTemplate(open_tokenizer(ROOT / "data/tokenizer"))


@pytest.mark.parametrize("tokens", [330, 450, 700, 1000])
def test_pieces_say_every_word_once_at_its_second(template, tokens):
    example = AnnotationFile(NARRATION)[0]
    whole = plan_example(example, template, BUDGET)
    assert whole.tokens > tokens
    pieces = split_example(example, whole, template, BUDGET, True, tokens)
    assert len(pieces) > 1
    spoken, seen = [], []
    for piece, plan in pieces:
        part = cut(example, piece)
        assert plan.tokens <= tokens
        assert plan.turns[0].num_frames == 6
        assert (plan.turns[0].start_us, plan.turns[0].stop_us) == (0, 3_000_000)
        before = " ".join(w.text for w in example.words[: piece.first_word])
        assert plan.prompt == (before or "Big Buck Bunny")
        spoken += [w.text for w in part.words]
        seen += plan.frame_times_us.tolist()
        # Each word is said at the second that the whole clip has it: no earlier than it ends.
        words = iter(part.words)
        for turn in plan.turns:
            last = plan.frame_times_us[turn.first_frame + turn.num_frames - 1]
            said = [next(words) for _ in turn.text.split()]
            assert all(w.end_us <= last for w in said)
    assert spoken == [w.text for w in example.words]
    # Pieces show the frames of the whole clip, each once (silence at a piece's end is not shown).
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(whole.frame_times_us.tolist())


def test_pieces_are_examples_of_the_index(template, tmp_path):
    index = build_index([NARRATION], tmp_path / "index", template.tokenizer, BUDGET, row_tokens=500)
    assert len(index) == index.pieces > 1
    assert index.tokens.max() <= 500
    for i in range(len(index)):
        plan = plan_example(index.example(i), template, BUDGET)
        assert index.entry(i).tokens == plan.tokens
        np.testing.assert_array_equal(index.entry(i).frame_times_us, plan.frame_times_us)
        assert index.where(i)[1] == 1


def test_what_cannot_be_split_is_rejected(template, tmp_path):
    example = AnnotationFile(NARRATION)[0]
    whole = plan_example(example, template, BUDGET)
    with pytest.raises(ExampleError, match="not even its first 3 s fit a row of 60 tokens"):
        split_example(example, whole, template, BUDGET, True, 60)
    index = build_index(
        [NARRATION, ROOT / "data/annotations/qa.jsonl"],
        tmp_path / "index",
        template.tokenizer,
        BUDGET,
        row_tokens=60,
    )
    assert index.pieces == 0
    rejected = [json.loads(x) for x in (tmp_path / "index/rejected.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejected] == [1, 1, 4]
    # Questions are never split: what is longer than a row is rejected, and counted by its reason.
    assert "qa.jsonl line 1" in rejected[1]["reason"]
    assert index.reasons["takes # tokens, more than the # of a row"] == 2
    assert [a["rejected"] for a in index.annotations] == [1, 2]
