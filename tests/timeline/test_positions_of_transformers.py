"""Tests of positions after videos against transformers 4.57, whose rule is ours, and 5.24.

positions.json in tests/goldens holds what both versions compute (`make_positions.py`).
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.positions import token_positions
from livecc_jax.verify.positions import compare_positions
from tests.goldens.make_positions import CONVERSATIONS, END, IMAGE, START, VIDEO, tokens_of

ROOT = Path(__file__).parents[2]
GOLDENS = json.loads((ROOT / "tests/goldens/positions.json").read_text())
PAGE = (ROOT / "docs/positions.md").read_text(encoding="utf-8")
SPECIAL = SpecialTokens(
    endoftext=151643, im_start=151644, im_end=151645,
    vision_start=START, vision_end=END, image_pad=IMAGE, video_pad=VIDEO,
)  # fmt: skip


def ours(name):
    """Returns (positions of text tokens, position of the next token, grids) of a conversation."""
    tokens, grids = tokens_of(CONVERSATIONS[name])
    tokens = np.array(tokens, np.int32)
    grids = np.array(grids, np.int32).reshape(-1, 3)
    positions, after = token_positions(tokens, grids, SPECIAL, "mrope")
    text = positions[:, (tokens != VIDEO) & (tokens != IMAGE)]
    assert (text == text[0]).all()
    return text[0], after, grids


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_positions_are_those_of_transformers_4_57(name):
    text, after, _ = ours(name)
    assert text.tolist() == GOLDENS["4.57.6"][name]["text"]
    assert after == GOLDENS["4.57.6"][name]["next"]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_transformers_5_24_is_earlier_by_what_the_page_says(name):
    text, after, grids = ours(name)
    theirs = np.array(GOLDENS["5.24.0"][name]["text"])
    earlier = [max(0, pairs - max(rows, columns) // 2) for pairs, rows, columns in grids.tolist()]
    tokens = [t for t in tokens_of(CONVERSATIONS[name])[0] if t not in (VIDEO, IMAGE)]
    pictures_before = np.cumsum([t == END for t in tokens])
    expected = np.concatenate([[0], np.cumsum(earlier)])[pictures_before].astype(int)
    np.testing.assert_array_equal(text - theirs, expected)
    report = compare_positions(*(np.tile(x, (3, 1)) for x in (text, theirs)), after)
    assert report.largest == expected.max()
    np.testing.assert_array_equal(report.differing, np.flatnonzero(expected))


def test_a_streaming_turn_is_the_same_in_both():
    assert GOLDENS["4.57.6"]["stream"] == GOLDENS["5.24.0"]["stream"]


def test_the_table_of_the_page():
    """Each number: frame pairs of a question's video, less its longer side in merged patches."""
    rows = re.findall(r"^\| (\d+)x(\d+), `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    (seconds,) = re.findall(r"^\| video, pixel budget \| (.*) \|$", PAGE, re.MULTILINE)
    seconds = [int(s.removesuffix(" s")) for s in seconds.split(" | ")]
    assert len(rows) >= 4
    for width, height, budget, cells in rows:
        for duration, cell in zip(seconds, cells.split(" | "), strict=True):
            frames = min(480, max(4, 2 * duration))
            size = PixelBudget.parse(budget).size(int(height), int(width), frames)
            assert int(cell) == max(0, frames // 2 - max(size) // 28), (width, budget, duration)
