"""Tests turns, tokens, supervision and positions against the paper and transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import ExampleError
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual, stream_conversation
from livecc_jax.timeline.example import Word
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import build_turns, stream_prompt, turn_label, turn_span

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/goldens/timeline.json").read_text())


@pytest.fixture(scope="module")
def template():
    return ChatTemplate(open_tokenizer(ROOT / "data/tokenizer"))


def chat(turns):
    return [
        ChatTurn(role, tuple(c if isinstance(c, str) else Visual(c[0], tuple(c[1])) for c in content))
        for role, *content in turns
    ]


@pytest.mark.parametrize("name", GOLDEN)
def test_tokens_and_positions_equal_transformers(template, name):
    golden = GOLDEN[name]
    encoded = template.conversation(chat(golden["turns"]))
    assert encoded.tokens.tolist() == golden["tokens"]
    positions, after = token_positions(
        encoded.tokens, encoded.grids, template.tokenizer.special, "mrope"
    )
    np.testing.assert_array_equal(positions, golden["positions"])
    assert after == positions.max() + 1


def test_answers_and_their_ends_are_supervised(template):
    encoded = template.conversation(chat(GOLDEN["stream"]["turns"]))
    tokens = encoded.tokens
    end = template.tokenizer.special.im_end
    spans = np.split(np.flatnonzero(encoded.supervised), 1 + np.flatnonzero(
        np.diff(np.flatnonzero(encoded.supervised)) > 1))  # fmt: skip
    answers = [template.tokenizer.decode(tokens[s].tolist()) for s in spans]
    assert answers == [turn[1] for turn in GOLDEN["stream"]["turns"] if turn[0] == "assistant"]
    assert all(tokens[s[-1]] == end for s in spans)
    assert tokens[spans[1]].tolist() == [2503, end]  # silence is one token


def test_streamed_prompts_equal_the_conversation(template):
    """opening + answer + continuation + answer ... are the tokens of the training conversation."""
    turns = chat(GOLDEN["stream"]["turns"])
    conversation = template.conversation(turns)
    special, encode = template.tokenizer.special, template.tokenizer.encode
    for mode in ("mrope", "sequential", "hybrid"):
        tokens, positions, position = [], [], 0
        for i in range(0, len(turns), 2):
            prompt = (template.continuation if i else template.opening)(turns[i].content)
            prompt_mode = mode if mode != "hybrid" else ("sequential" if i else "mrope")
            prompt_positions, position = token_positions(
                prompt.tokens, prompt.grids, special, prompt_mode, position
            )
            answer = encode(turns[i + 1].content[0])
            answer_positions = np.arange(position, position + len(answer))
            position += len(answer)
            tokens += [*prompt.tokens.tolist(), *answer]
            positions += [prompt_positions, np.broadcast_to(answer_positions, (3, len(answer)))]
        assert tokens == conversation.tokens[: len(tokens)].tolist()
        assert len(tokens) == len(conversation.tokens) - 2
        expected, _ = token_positions(conversation.tokens, conversation.grids, special, mode)
        np.testing.assert_array_equal(np.concatenate(positions, 1), expected[:, : len(tokens)])


def test_special_spellings_in_text_stay_text(template):
    turns = [ChatTurn("user", ("what is <|im_end|> or <|video_pad|>?",)), ChatTurn("assistant", ("x",))]
    encoded = template.conversation(turns)
    special = template.tokenizer.special
    assert np.count_nonzero(encoded.tokens == special.im_end) == 3
    assert special.video_pad not in encoded.tokens
    assert "<|im_end|> or <|video_pad|>" in template.tokenizer.decode(encoded.tokens.tolist())


words_lists = st.lists(
    st.tuples(
        st.integers(0, 900_000), st.integers(0, 700_000), st.sampled_from(["a", " b ", "c c", ""])
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(words_lists, st.integers(3, 20), st.integers(0, 10_000_000), st.integers(0, 4))
def test_words_are_assigned_by_the_definition(raw, pairs, origin, tail):
    """A word belongs to the first turn whose last frame is at or after the word's end."""
    time_us, words = origin, []
    for gap, length, text in raw:
        time_us += gap
        words.append(Word(time_us, time_us + length, text))
        time_us += length
    times = origin + 500_000 * np.arange(1, 2 * pairs + 1)
    lasts = [times[5], *times[7::2]]
    expected = [[] for _ in lasts]
    for w in words:
        turn = next((i for i, t in enumerate(lasts) if t >= w.end_us), None)
        if turn is not None and w.text.strip():
            expected[turn].append(w.text.strip())
    texts = [" ".join(x) for x in expected]
    if not any(texts):
        with pytest.raises(ExampleError, match="nothing is said"):
            build_turns(times, words, tail)
        return
    turns = build_turns(times, words, tail)
    # Of the silent turns at the end, as many are kept as are asked for and as there are frames for.
    last = min(max(i for i, t in enumerate(texts) if t) + tail, len(texts) - 1)
    assert [t.text for t in turns] == texts[: last + 1]
    assert [t.num_frames for t in turns] == [6, *[2] * last]
    assert [t.first_frame for t in turns] == [0, *range(6, 6 + 2 * last, 2)]
    assert [(t.start_us, t.stop_us) for t in turns] == [turn_span(i) for i in range(last + 1)]


def test_a_word_ending_with_the_frame_is_in_time():
    times = 500_000 * np.arange(1, 9)
    in_time, late = Word(0, 3_000_000, "on"), Word(0, 3_000_001, "late")
    assert [t.text for t in build_turns(times, [in_time, late])] == ["on", "late"]
    assert [t.answer for t in build_turns(times, [late])] == [" ...", "late ..."]
    assert turn_label(*turn_span(0)) == "Time=0.0-3.0s"
    assert turn_label(*turn_span(1)) == "Time=3.0-4.0s"


def test_previous_commentary_replaces_the_title():
    assert stream_prompt("", "T", "") == "T"
    assert stream_prompt("", "T", "said before") == "said before"
    assert stream_prompt("Q", "T", "") == "Q\nT"
    assert stream_prompt("Q", "T", "P") == "Q\n\nP"
    assert stream_prompt("Q", "T", "P", context=False) == "Q"


@pytest.mark.parametrize(
    ("words", "frames", "reason"),
    [
        ([Word(0, 1, "a")], 4, "needs at least 6"),
        ([Word(5, 1, "a")], 6, "before it starts"),
        ([Word(5, 9, "a"), Word(1, 2, "b")], 6, "runs backwards"),
        ([Word(9_000_000, 9_100_000, "a")], 6, "nothing is said"),
        ([], 6, "nothing is said"),
    ],
)
def test_unusable_clips_are_explained(words, frames, reason):
    with pytest.raises(ExampleError, match=reason):
        build_turns(500_000 * np.arange(1, frames + 1), words)


def test_stream_conversation_has_the_frames_of_each_turn():
    turns = build_turns(500_000 * np.arange(1, 9), [Word(0, 1, "hi"), Word(0, 3_900_000, "you")])
    conversation = stream_conversation(turns, (4, 6), "T")
    assert conversation == [
        ChatTurn("user", ("Time=0.0-3.0s", Visual("video", (3, 4, 6), (0.25, 1.25, 2.25)), "T")),
        ChatTurn("assistant", ("hi ...",)),
        ChatTurn("user", ("Time=3.0-4.0s", Visual("video", (1, 4, 6), (3.25,)))),
        ChatTurn("assistant", ("you ...",)),
    ]
