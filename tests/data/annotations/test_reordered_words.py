"""Words that run backwards a little are put in order and counted; others reject the conversation."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.index.reader import Index
from livecc_jax.errors import ExampleError
from livecc_jax.timeline.turns import MAX_BACKWARD_US, build_turns

ROOT = Path(__file__).parents[3]
FRAMES_US = 500_000 * np.arange(1, 41)


def conversation(words, video="clip.mp4"):
    return [
        {"role": "user", "content": [{"type": "video", "video": str(video)}]},
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": words}]},
    ]


def turn_texts(words):
    example = parse(conversation(words), "", "a line")
    return [turn.text for turn in build_turns(FRAMES_US, example.words)], example.reordered


def published_rule(words):
    """Each word to the first turn whose last frame is at or after its end, in milliseconds."""
    lasts = [3000, *range(4000, 20001, 1000)]
    texts = [[] for _ in lasts]
    for end, _, text in sorted((max(s, e), min(s, e), t) for s, e, t in words):
        texts[next(i for i, last in enumerate(lasts) if end <= last)].append(text)
    while not texts[-1]:
        texts.pop()
    return [" ".join(t) for t in texts]


def test_small_steps_backwards_are_put_in_order():
    """Random words, shaken by less than the bound, against sorting in whole milliseconds."""
    rng = random.Random(0)
    shaken = 0
    for _ in range(200):
        in_order = sorted((rng.randrange(200, 19_000), rng.randrange(0, 300)) for _ in range(12))
        words = [[s, s + length, f"w{i}"] for i, (s, length) in enumerate(in_order)]
        for word in words:
            shift = rng.choice([0, 0, 0, -150, -249])
            word[0], word[1] = word[0] + shift, word[1] + rng.choice([shift, 0])
        words = [[s, max(e, 0), t] for s, e, t in words]
        seconds = [[s / 1000, e / 1000, t] for s, e, t in words]
        starts, ends = [s for s, _, _ in words], [e for _, e, _ in words]
        spread = [max(min(s, e) for s, e in zip(starts[:i], ends[:i])) for i in range(1, 12)]
        tops = [max(max(s, e) for s, e in zip(starts[:i], ends[:i])) for i in range(1, 12)]
        back = [starts[0] - ends[0]]
        back += [max(a - s, b - e, s - e) for a, b, s, e in zip(spread, tops, starts[1:], ends[1:])]
        if max(back) >= MAX_BACKWARD_US // 1000:
            with pytest.raises(ExampleError, match=r"runs backwards|before it starts"):
                turn_texts(seconds)
            continue
        texts, count = turn_texts(seconds)
        assert texts == published_rule(words)
        assert count == sum(b > 0 for b in back)
        shaken += count > 0
    assert shaken > 100


@pytest.mark.parametrize(
    ("words", "texts", "count"),
    [
        ([[1.0, 1.5, "a"], [1.5, 2.0, "b"]], ["a b"], 0),
        ([[2.6, 3.2, "late"], [2.5, 2.9, "early"]], ["early", "late"], 1),
        ([[1.2, 1.1, "swapped"]], ["swapped"], 1),
        ([[1.0, 2.0, "a"], [1.4, 1.501, "b"]], ["b a"], 1),
        ([[1.0, 1.4, "a"], [0.9, 1.5, "b"]], ["a b"], 1),
        ([[1.0, 1.4, "a"], [1.0, 1.4, "b"]], ["a b"], 0),
    ],
)
def test_which_words_come_first(words, texts, count):
    assert turn_texts(words) == (texts, count)


@pytest.mark.parametrize(
    "words",
    [
        [[5.0, 5.2, "a"], [4.5, 5.3, "b"]],
        [[5.0, 5.6, "a"], [5.0, 5.1, "b"]],
        [[5.5, 5.0, "a"]],
        [[5.0, 5.0, "a"], [4.8, 4.8, "b"], [4.6, 4.6, "c"], [4.4, 4.4, "d"]],  # small steps add up
    ],
)
def test_larger_steps_reject_the_conversation(words):
    with pytest.raises(ExampleError, match=r"runs backwards|before it starts"):
        turn_texts(words)


def test_an_index_counts_them(small_tokenizer, tmp_path, capsys):
    """The rows of the conversation in order and of the shaken one are the same; the counts are told."""
    source = AnnotationFile(ROOT / "data/annotations/narration.jsonl").raw_conversation(0)
    source[0]["content"][0]["video"] = str(ROOT / "data/clips/bbb_espeak_narration_30s.mp4")
    words = source[1]["content"][0]["text_stream"]
    for i in range(0, len(words) - 1, 4):  # each pair is spoken within less than the bound
        if words[i + 1][1] - words[i][0] < 0.5:
            words[i : i + 2] = words[i + 1], words[i]
    swapped = sum(a[1] > b[1] for a, b in itertools.pairwise(words))
    assert swapped > 3
    for name, value in (("in_order", sorted(words, key=lambda w: w[1])), ("shaken", words)):
        source[1]["content"][0]["text_stream"] = value
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(source) + "\n")
        index = ["index", str(tmp_path / f"{name}.jsonl"), "--out", str(tmp_path / name)]
        assert main([*index, "--tokenizer", str(small_tokenizer), "--row-tokens", "600"]) == 0
    output = capsys.readouterr().out
    assert output.count("words put in order") == 1
    assert f"  words put in order: {swapped} in 1 conversations (they ran backwards by less" in output
    meta = json.loads((tmp_path / "shaken/meta.json").read_text())
    assert meta["reordered"] == {"words": swapped, "conversations": 1}
    assert Index(tmp_path / "shaken").reordered == meta["reordered"]
    assert Index(tmp_path / "in_order").reordered == {"words": 0, "conversations": 0}
    assert meta["digest"] == json.loads((tmp_path / "in_order/meta.json").read_text())["digest"]
