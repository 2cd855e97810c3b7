"""Transcripts of speech recognisers."""

import itertools
import json

from livecc_jax.produce.captions.read import parse_captions


def test_whisperx(words):
    """Numerals have no times: they share the gap to their neighbours, or to the segment's edge."""
    value = {
        "segments": [
            {"start": 0.5, "end": 3.0, "text": " it is 5 0 now 7", "words": [
                {"word": "it", "start": 0.6, "end": 0.8, "score": 0.9}, {"word": "[is]",
                "start": 0.8, "end": 1.0},
                {"word": "5"}, {"word": "0"}, {"word": "now", "start": 2.0, "end": 2.5},
                {"word": "7"}]},
            {"start": 4.0, "end": 5.0, "text": "no no", "words": []},
            {"start": 6.0, "end": 7.0, "text": " a b ", "words": None},
            {"start": 8.0, "end": 9.0, "text": "<3"},
        ],
        "word_segments": [{"word": "it", "start": 0.6, "end": 0.8}],
        "language": "en",
    }  # fmt: skip
    assert words(json.dumps(value)) == [
        (0.6, 0.8, "it"), (0.8, 1.0, "[is]"), (1.0, 1.5, "5"), (1.5, 2.0, "0"), (2.0, 2.5, "now"),
        (2.5, 3.0, "7"),
        (4.0, 4.5, "no"), (4.5, 5.0, "no"), (6.0, 6.5, "a"), (6.5, 7.0, "b"), (8.0, 9.0, "<3"),
    ]  # fmt: skip
    found = parse_captions(json.dumps(value).encode())
    assert (found.kind, found.language, found.format) == ("asr", "en", "asr")


def test_first_word_without_times(words):
    value = {
        "segments": [
            {"start": 1, "end": 4, "words": [{"word": "3"}, {"word": "men", "start": 2, "end": 4}]}
        ]
    }
    assert words(json.dumps(value)) == [(1.0, 2.0, "3"), (2.0, 4.0, "men")]


def test_parts_of_words(words):
    """faster-whisper: a part without a leading space goes on with the word before."""
    value = [{"start": 0, "end": 3, "text": " Hard rock-solid 5,000.", "words": [
        {"word": " Hard", "start": 0.0, "end": 0.5}, {"word": " rock", "start": 0.5, "end": 1.0},
        {"word": "-solid", "start": 1.0, "end": 1.5}, {"word": " 5", "start": 1.5, "end": 2.0},
        {"word": ",000", "start": 2.0, "end": 2.5}, {"word": ".", "start": 2.5, "end": 2.6}]},
        {"start": 3, "end": 4, "words": [{"word": "Next", "start": 3.0, "end": 4.0}]}]  # fmt: skip
    assert words(json.dumps(value)) == [
        (0.0, 0.5, "Hard"), (0.5, 1.5, "rock-solid"), (1.5, 2.6, "5,000."), (3.0, 4.0, "Next"),
    ]  # fmt: skip


def test_words_without_spaces_between_them(words):
    value = {"segments": [{"start": 0, "end": 1, "words": [
        {"word": "你", "start": 0, "end": 0.5}, {"word": "好", "start": 0.5, "end": 1}]}]}  # fmt: skip
    assert words(json.dumps(value)) == [(0.0, 0.5, "你"), (0.5, 1.0, "好")]


def test_order_and_overlap(words):
    value = [{"start": 5, "end": 6, "text": "b"}, {"start": 1, "end": 9, "text": "a"}, {"text": "c"},
             {"start": 4, "end": None, "text": "x"}, 7]  # fmt: skip
    found = words(json.dumps(value))
    assert sorted(w[2] for w in found) == ["a", "b", "c", "x"]
    assert found == sorted(found, key=lambda w: w[0])
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(found))


def test_other_shapes(words):
    expected = [(1.0, 1.5, "a"), (1.5, 2.0, "b")]
    for value in (
        {"chunks": [{"timestamp": [1, 2], "text": " a b"}]},
        {"transcription": [{"offsets": {"from": 1000, "to": 2000}, "text": " a b"}]},
        {"words": [{"word": "a", "start": 1, "end": 1.5}, {"word": "b", "start": 1.5,
        "end": 2}], "text": "a b"},
        {"segments": [{"start": 1, "end": 2, "text": "a b"}],
         "words": [{"word": "a", "start": 1, "end": 1.5}, {"word": "b", "start": 1.5, "end": 2}]},
        {"segments": [{"start": 1, "end": 2, "words": [[1, 1.5, " a", 0.9], [1.5, 2, " b", 0.8]]}]},
        {"kind": "auto", "language": "en", "words": [[1.0, 1.5, "a"], [1.5, 2.0, "b"]]},
    ):  # fmt: skip
        assert words(json.dumps(value)) == expected


def test_times_that_are_none(words):
    text = (
        '{"segments": [{"start": NaN, "end": "2", "words": [{"word": "a", "start": -1, "end": NaN}]}]}'
    )
    assert words(text) == [(0.0, 0.0, "a")]
