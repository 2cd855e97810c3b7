"""Mixtures: the share of each index in an epoch, and every form of question among clips."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.data.index.build import build_index
from livecc_jax.data.rows.mixture import Mixture, epoch_examples, parse_mixture
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import ConfigError, DataError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer

ROOT = Path(__file__).parents[3]
CLIPS, ANNOTATIONS = ROOT / "data/clips", ROOT / "data/annotations"
BUDGET = PixelBudget.parse(8)
VIDEO = {"type": "video", "video": str(CLIPS / "bbb_oddsize_317x179_derived.mp4")}
IMAGE = {"type": "image", "image": str(CLIPS / "frame.png")}
TEXT = {"type": "text", "text": "What is it?"}

QUESTIONS = {
    "text": [("user", [TEXT]), ("assistant", "A rabbit.")],
    "image": [("user", [IMAGE, TEXT]), ("assistant", "A rabbit.")],
    "images": [("user", [IMAGE, TEXT, IMAGE, IMAGE]), ("assistant", "The same picture.")],
    "video": [("user", [VIDEO, TEXT]), ("assistant", "A film.")],
    "turns": [
        ("system", "Be brief."), ("user", [VIDEO, TEXT]), ("assistant", "A film."),
        ("user", [TEXT, IMAGE]), ("assistant", "A frame."), ("user", "Sure?"), ("assistant", "Yes."),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory, small_tokenizer):
    """An index of four clips and one of five questions."""
    home = tmp_path_factory.mktemp("mixture")
    lines = [json.dumps([{"role": r, "content": c} for r, c in q]) for q in QUESTIONS.values()]
    (home / "qa.jsonl").write_text("\n".join(lines) + "\n")
    tokenizer = open_tokenizer(small_tokenizer)
    clips = [ANNOTATIONS / "windows.jsonl", ANNOTATIONS / "narration.jsonl"]
    build_index(clips, home / "clips", tokenizer, BUDGET)
    build_index([home / "qa.jsonl"], home / "qa", tokenizer, BUDGET)
    build_index([home / "qa.jsonl"], home / "large", tokenizer, PixelBudget.parse(16))
    return home


def source(home, tokenizer, text, **changes):
    settings = {
        "tokens": 1280, "windows": 48, "targets": 256, "positions": "mrope", "weighting": "token",
        "seed": 1, "epochs": 1,
    }  # fmt: skip
    return RowSource(text.format(h=home), str(tokenizer), **(settings | changes))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.fractions(Fraction(1, 7), 3, max_denominator=7)),
        min_size=1, max_size=3,
    ),
    st.integers(0, 3), st.integers(1, 5),
)  # fmt: skip
def test_every_example_gets_its_share(parts, seed, num_epochs):
    """Over several epochs the counts of an index's examples differ by at most one."""
    sizes, shares = zip(*parts)
    epochs = [epoch_examples(sizes, shares, seed, t) for t in range(num_epochs)]
    counts = Counter(np.concatenate(epochs).tolist())
    base = 0
    for size, share in parts:
        part_counts = [counts[base + i] for i in range(size)]
        assert sum(part_counts) == int(share * size * num_epochs)
        assert max(part_counts) - min(part_counts) <= 1
        base += size


def test_epochs_and_weights(home, small_tokenizer):
    clips, both = (source(home, small_tokenizer, t) for t in ("{h}/clips", "{h}/clips, {h}/qa"))
    assert sorted(both.packing.members.tolist()) == list(range(9))
    assert clips.mixture.digest != both.mixture.digest
    assert clips.mixture.digest == Mixture(f"{home}/clips*1").digest
    assert both.mixture.location(4) == (str(home / "qa.jsonl"), 1)
    twice = source(home, small_tokenizer, "{h}/clips*0.5,{h}/qa*2", epochs=2)
    counts = Counter(twice.packing.members.tolist())
    assert [counts[i] for i in range(9)] == [1] * 4 + [4] * 5
    # One clip for two questions: with all five questions come two and a half clips.
    weighted = Mixture(f"{home}/clips@1,{home}/qa@2")
    assert weighted.epochs == [Fraction(5, 8), 1]
    for text, reason in {
        "{h}/clips@1,{h}/qa": "give all indexes a weight",
        "{h}/clips*0": "is not INDEX",
        "{h}/clips,": "is not INDEX",
        "{h}/clips,{h}/large": "they cannot share rows",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            Mixture(text.format(h=home))
    assert parse_mixture("gs://b/i@2e-1")[0].path == "gs://b/i"


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        ("*999999999999", "more than 10000 epochs"),
        ("*1e30", "more than 10000 epochs"),
        ("*1e999999999", "is not INDEX"),
        ("*" + "9" * 5000, "is not INDEX"),
        ("@1e-999999999", "is not INDEX"),
        (",x" * 2000, "names more than 1000 indexes"),
    ],
)
def test_shares_are_refused_before_they_are_computed(share, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_mixture("index" + share)


def test_an_epoch_has_a_limit(home, small_tokenizer, monkeypatch):
    """Of five questions 9,000 times, 45,000 examples; the limit counts those of all indexes."""
    monkeypatch.setattr("livecc_jax.data.rows.mixture.MAX_EPOCH_EXAMPLES", 45_003)
    assert len(Mixture(f"{home}/qa*9000")) == 5
    with pytest.raises(ConfigError, match="an epoch would hold 45004 examples"):
        Mixture(f"{home}/qa*9000,{home}/clips")
    with pytest.raises(DataError, match="1000000000 epochs of 5 examples are more than"):
        _ = source(home, small_tokenizer, "{h}/qa", epochs=10**9).packing


def test_each_form_of_question_in_a_row(home, small_tokenizer):
    """Answers of all assistant turns are supervised, each with its end, and nothing else is."""
    rows = source(home, small_tokenizer, "{h}/qa")
    tokenizer = rows.tokenizer
    answers = {}
    for r in range(len(rows)):
        row, failed = rows.row(r)
        assert failed == []
        for segment, number in enumerate(rows.packing.row(r), 1):
            slots = row["target_slots"][row["target_weights"] > 0]
            slots = slots[row["segment_ids"][slots] == segment]
            targets = row["tokens"][slots + 1]
            ends = np.flatnonzero(targets == tokenizer.special.im_end)
            parts = np.split(targets, ends + 1)
            assert len(parts[-1]) == 0
            in_segment = row["segment_ids"] == segment
            images = int((row["tokens"][in_segment] == tokenizer.special.image_pad).sum())
            videos = int((row["tokens"][in_segment] == tokenizer.special.video_pad).sum())
            assert images + videos == int((row["vision_index"][in_segment] >= 0).sum())
            texts = [tokenizer.decode(p[:-1].tolist()) for p in parts[:-1]]
            answers[list(QUESTIONS)[number]] = (texts, images, videos)
    one, film = answers["image"][1], answers["video"][2]
    assert one > 0
    assert film > 0
    assert answers == {
        "text": (["A rabbit."], 0, 0),
        "image": (["A rabbit."], one, 0),
        "images": (["The same picture."], 3 * one, 0),
        "video": (["A film."], 0, film),
        "turns": (["A film.", "A frame.", "Yes."], one, film),
    }
