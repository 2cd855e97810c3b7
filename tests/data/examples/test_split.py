"""Clips that are longer than a row, split at turn boundaries."""

import json
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.encode import encode_example
from livecc_jax.data.examples.split import slice_example, split_example
from livecc_jax.data.index.build import build_index
from livecc_jax.errors import ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate

ROOT = Path(__file__).parents[3]
NARRATION = ROOT / "data/annotations/narration.jsonl"
BUDGET = PixelBudget.parse(24)


@pytest.fixture(scope="module")
def template():
    return ChatTemplate(open_tokenizer(ROOT / "data/tokenizer"))


@pytest.mark.parametrize("tokens", [330, 450, 700, 1000])
def test_slices_say_every_word_once_at_its_second(template, tokens):
    example = AnnotationFile(NARRATION)[0]
    unsplit = encode_example(example, template, BUDGET)
    assert unsplit.tokens > tokens
    slices = split_example(example, unsplit, template, BUDGET, True, tokens)
    assert len(slices) > 1
    words, frame_times_us = [], []
    for part, encoded in slices:
        sliced = slice_example(example, part)
        assert encoded.tokens <= tokens
        assert encoded.turns[0].num_frames == 6
        assert (encoded.turns[0].start_us, encoded.turns[0].stop_us) == (0, 3_000_000)
        words_before = " ".join(w.text for w in example.words[: part.first_word])
        assert encoded.prompt == (words_before or "Big Buck Bunny")
        words += [w.text for w in sliced.words]
        frame_times_us += encoded.frame_times_us.tolist()
        # Each word is in the turn of the second at which it ends, as in the unsplit clip.
        remaining = iter(sliced.words)
        for turn in encoded.turns:
            last_us = encoded.frame_times_us[turn.first_frame + turn.num_frames - 1]
            turn_words = [next(remaining) for _ in turn.text.split()]
            assert all(w.end_us <= last_us for w in turn_words)
    assert words == [w.text for w in example.words]
    # Slices show the frames of the clip, each once (silence at a slice's end is not shown).
    assert len(frame_times_us) == len(set(frame_times_us))
    assert set(frame_times_us) <= set(unsplit.frame_times_us.tolist())


def test_slices_are_examples_of_the_index(template, tmp_path):
    index = build_index([NARRATION], tmp_path / "index", template.tokenizer, BUDGET, row_tokens=500)
    assert len(index) == index.num_slices > 1
    assert index.tokens.max() <= 500
    for i in range(len(index)):
        encoded = encode_example(index.example(i), template, BUDGET)
        assert index.record(i).tokens == encoded.tokens
        np.testing.assert_array_equal(index.record(i).frame_times_us, encoded.frame_times_us)
        assert index.location(i)[1] == 1


def test_an_example_that_cannot_be_split_is_rejected(template, tmp_path):
    example = AnnotationFile(NARRATION)[0]
    unsplit = encode_example(example, template, BUDGET)
    with pytest.raises(ExampleError, match="not even its first 3 s fit a row of 60 tokens"):
        split_example(example, unsplit, template, BUDGET, True, 60)
    index = build_index(
        [NARRATION, ROOT / "data/annotations/qa.jsonl"],
        tmp_path / "index",
        template.tokenizer,
        BUDGET,
        row_tokens=60,
    )
    assert index.num_slices == 0
    rejected = [json.loads(x) for x in (tmp_path / "index/rejected.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejected] == [1, 1, 4]
    # Questions are never split: longer ones are rejected, and counted by their reason.
    assert "qa.jsonl line 1" in rejected[1]["reason"]
    assert index.reasons["takes # tokens, more than the # of a row"] == 2
    assert [a["rejected"] for a in index.annotations] == [1, 2]
