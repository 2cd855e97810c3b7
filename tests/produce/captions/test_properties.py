"""Any cues: words in order and within their cues, none invented. webvtt-py finds the same cues."""

import contextlib
import itertools
import json
from collections import Counter

import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import DataError
from livecc_jax.produce.captions.cues import Captions, Cue, Row
from livecc_jax.produce.captions.read import parse_captions
from livecc_jax.produce.captions.vtt import read_vtt
from livecc_jax.produce.captions.words import words_of

ROWS = st.lists(
    st.sampled_from(
        ["", " ", "a", "b b", "- c d", "[x] y", "(z)", "♪", ">> BOB: e", "שלום עולם", "f\u00a0g",
        "  h  i "]
    ),
    min_size=1, max_size=3,
)  # fmt: skip
MARKS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9000)), max_size=3)


@st.composite
def any_cues(draw):
    found = []
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, 5000))
        end = draw(st.none() | st.integers(0, 9000))
        rows = []
        for text in draw(ROWS):
            marks = draw(MARKS) if draw(st.booleans()) else []
            rows.append(Row(text, tuple(sorted((at, ms) for at, ms in marks if at < len(text)))))
        found.append(Cue(start, end, rows))
    return found


@settings(max_examples=150, deadline=None)
@given(any_cues(), st.booleans())
def test_any_cues(cues, rolls):
    words = words_of(Captions(list(cues), always_rolls=rolls))
    said = Counter(word for cue in cues for row in cue.rows for word in row.text.split())
    assert not Counter(word.text for word in words) - said
    starts = {cue.start_ms for cue in cues}
    for word in words:
        assert min(starts) <= word.start_ms <= word.end_ms
        assert word.text.split() == [word.text]
    for a, b in itertools.pairwise(words):
        assert a.start_ms <= b.start_ms
        assert a.end_ms <= b.end_ms
    if not any(row.marks for cue in cues for row in cue.rows):
        # A cue's time is shared without gaps, and no word reaches into the next cue.
        for word in words:
            later = [
                cue.start_ms for cue in cues if cue.start_ms > word.start_ms and "b" in str(cue.rows)
            ]
            assert not later or word.start_ms <= min(later)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(
    ["", "a", "1", "NOTE x", "00:01.000 --> 00:02.000", "00:00:03.5 --> 00:04.000 line:0", "STYLE",
    "REGION", " ",
     "<b>x</b>", "x --> y", "00:05.000 --> 00:06.000", "-->"]), max_size=14))  # fmt: skip
def test_cues_of_webvtt(lines):
    """webvtt-py finds the same cues and rows, whatever stands between them."""
    text = "\n".join(["WEBVTT", *lines])
    expected = [
        (c.start_time.in_milliseconds(), c.end_time.in_milliseconds(), c.raw_text)
        for c in webvtt.from_string(text).captions
    ]
    ours = [(c.start_ms, c.end_ms, "\n".join(row.text for row in c.rows)) for c in read_vtt(text).cues]
    assert [c for c in ours if c[2]] == [
        (start, end, raw.replace("<b>", "").replace("</b>", "")) for start, end, raw in expected if raw
    ]


BYTES = st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass"))
HEADS = [b"", b"WEBVTT\n\n", b'{"events":', b"<tt>", b"[Events]\n", b"1\n00:00:01,0 --> 0:2,0\n"]


@settings(max_examples=120, deadline=None)
@given(BYTES, st.sampled_from(HEADS))
def test_any_bytes(data, head):
    with contextlib.suppress(DataError):
        parse_captions(head + data)


def test_a_hundred_thousand_words_from_right_to_left():
    word = "كلمة"
    lines = [" ".join(f"{word}{i + j}" for j in range(10)) for i in range(10_000)]
    clocks = [f"{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}" for i in range(10_000)]
    parts = [f"{i + 1}\n{c},000 --> {c},900\n{lines[i]}\n\n" for i, c in enumerate(clocks)]
    text = "".join(parts)
    events = [
        {
            "tStartMs": 1000 * i,
            "dDurationMs": 900,
            "segs": [{"utf8": f" {w}", "tOffsetMs": 90 * j} for j, w in enumerate(line.split())],
        }
        for i, line in enumerate(lines)
    ]
    for data in (text, json.dumps({"events": events}, ensure_ascii=False)):
        words = parse_captions(data.encode()).words
        assert len(words) == 100_000
        assert (words[-1].text, words[-1].end_ms) == (f"{word}10008", 9_999_900)
