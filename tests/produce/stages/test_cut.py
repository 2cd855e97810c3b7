"""Cutting: the published rule at its bounds, and any stream of words."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.produce.parameters import PRETRAIN, SFT
from livecc_jax.produce.records import Clip, Rejection, Source, Word
from livecc_jax.produce.stages.cut import cut


def source(words, **fields):
    return Source(0, "id", "v.mp4", title="T", words=tuple(Word(*w) for w in words), **fields)


def spoken(count, every_ms, start_ms=0, length_ms=None, text="w"):
    """`count` words, one every `every_ms`."""
    length_ms = every_ms if length_ms is None else length_ms
    return [(start_ms + i * every_ms, start_ms + i * every_ms + length_ms, text) for i in range(count)]


def spans(records, kind=Clip):
    return [(r.words[0].start_ms, r.words[-1].end_ms) for r in records if isinstance(r, kind)]


def reasons(records):
    return [r.reason for r in records if isinstance(r, Rejection)]


def ends(clip):
    return [clip.words[0].text, clip.words[-1].text]


def test_the_last_word_belongs_to_its_clip():
    (clip,) = cut(source(spoken(60, 500)), PRETRAIN)
    assert len(clip.words) == 60
    assert (clip.start_ms, clip.end_ms, clip.previous, clip.index) == (0, 30_600, "", 0)


@pytest.mark.parametrize(("length", "kept"), [(30_000, True), (29_999, False)])
def test_shortest_clip(length, kept):
    words = [*spoken(58, 500), (29_000, length, "last")]
    assert len(spans(cut(source(words), PRETRAIN))) == kept
    assert reasons(cut(source(words), PRETRAIN)) == ([] if kept else ["shorter than 30 s"])


def test_decimal_seconds_are_exact():
    """33.3 - 3.3 < 30 in floats."""
    words = [*spoken(50, 600, start_ms=round(3.3 * 1000)), (33_299, round(33.3 * 1000), "x")]
    assert len(spans(cut(source(words), PRETRAIN))) == 1


def test_longest_clip_and_what_comes_after():
    clips = cut(source(spoken(600, 500)), PRETRAIN)  # 300 s without a silence
    assert spans(clips) == [(0, 240_000), (240_000, 300_000)]
    assert clips[1].previous == " ".join(["w"] * 480)
    shifted = [
        (s + 1, e + 1, t) if i >= 479 else (s, e, t) for i, (s, e, t) in enumerate(spoken(600, 500))
    ]
    assert spans(cut(source(shifted), PRETRAIN))[0] == (0, 239_500)


@pytest.mark.parametrize(("silence", "number"), [(3000, 1), (3001, 2)])
def test_silence(silence, number):
    words = [*spoken(60, 500), *spoken(60, 500, start_ms=30_000 + silence)]
    assert len(spans(cut(source(words), PRETRAIN))) == number


def test_a_long_word_is_no_silence():
    words = [*spoken(60, 500), (30_000, 36_000, "goooal"), *spoken(60, 500, start_ms=36_000)]
    assert spans(cut(source(words), PRETRAIN)) == [(0, 66_000)]


@pytest.mark.parametrize(
    ("count", "reason"),
    [(30, ""), (29, "fewer than 1 words a second"), (120, ""), (121, "more than 4 words a second")],
)
def test_rate(count, reason):
    words = spoken(count, 30_000 // count)
    words[-1] = (words[-1][0], 30_000, "w")
    records = cut(source(words), PRETRAIN)
    assert reasons(records) == ([reason] if reason else [])
    assert not reasons(cut(source(words), SFT))


def test_words_at_one_instant_are_too_fast_where_no_length_is_asked_for():
    (found,) = cut(source([(500, 500, "w")] * 3), dataclasses.replace(PRETRAIN, min_clip_ms=0))
    assert (found.reason, found.value) == ("more than 4 words a second", None)


def test_previous_holds_rejected_stretches():
    words = [
        (0, 500, "short"),
        *spoken(60, 500, start_ms=10_000),
        *spoken(60, 500, start_ms=60_000, text="v"),
    ]
    records = cut(source(words), PRETRAIN)
    assert [type(r) for r in records] == [Rejection, Clip, Clip]
    assert [r.index for r in records] == [0, 1, 2]
    assert records[1].previous == "short"
    assert records[2].previous == " ".join(["short"] + ["w"] * 60)


def test_sentences():
    text = (
        ["so", "it", "goes."]
        + ["Étienne"]
        + ["x"] * 70
        + ["end?"]
        + ["12", "no.", "no!", "Now"]
        + ["y"] * 80
    )
    words = [(i * 500, i * 500 + 500, t) for i, t in enumerate(text)]
    words = [w if i < 3 else (w[0] + 5000, w[1] + 5000, w[2]) for i, w in enumerate(words)]
    words = [w if i < 75 else (w[0] + 5000, w[1] + 5000, w[2]) for i, w in enumerate(words)]
    records = cut(source(words), SFT)
    assert [ends(r) if isinstance(r, Clip) else r.reason for r in records] == [
        "shorter than 30 s",  # so it goes.
        ["Étienne", "end?"],
        "no sentence begins here",  # 12 no. no!
        ["Now", "y"],
    ]
    assert all(clip.previous == "" for clip in records if isinstance(clip, Clip))
    assert [r.num_words for r in records if isinstance(r, Rejection)] == [3, 3]


@pytest.mark.parametrize(
    ("silence", "duration", "end"),
    [
        (0, None, 30_600),
        (0, 30_300, 30_300),
        (5000, None, 35_000),
        (30_000, None, 40_000),
        (5000, 33_000, 33_000),
    ],
)
def test_trailing_silence_ends_before_the_next_word(silence, duration, end):
    p = dataclasses.replace(PRETRAIN, trailing_silence_ms=silence)
    words = spoken(60, 500)
    following = [] if duration else spoken(60, 500, start_ms=40_000)
    records = cut(source(words + following, duration_ms=duration), p)
    assert records[0].end_ms == end


def test_words_after_the_end_of_the_video():
    records = cut(source(spoken(80, 500), duration_ms=31_000), PRETRAIN)
    assert spans(records) == [(0, 31_000)]
    assert reasons(records) == ["said after the video ends"]
    assert records[-1].num_words == 18
    assert reasons(cut(source(spoken(3, 500, start_ms=5000), duration_ms=1000), PRETRAIN)) == [
        "all words lie past the end"
    ]
    assert reasons(cut(source([]), PRETRAIN)) == ["nothing is said"]


def test_words_that_run_backwards_far_cannot_be_indexed():
    words = spoken(80, 500)
    words[40] = (words[40][0] - 2000, words[40][1] - 2000, "w")
    assert reasons(cut(source(words), PRETRAIN)) == ["words run backwards by 0.5 s or more"]
    words[40] = (words[39][0] - 300, words[39][1] - 300, "w")
    assert len(spans(cut(source(words), PRETRAIN))) == 1


def test_a_very_long_text_before_is_cut_at_its_front():
    words = [*spoken(20_000, 300, text="x" * 99), *spoken(60, 500, start_ms=6_010_000, text="end")]
    clip = cut(source(words), PRETRAIN)[-1]
    assert 900_000 < len(clip.previous) <= 1_000_000 - 3 * 60 - len(clip.title)
    assert clip.previous.split() == ["x" * 99] * (len(clip.previous) // 100 + 1)


TEXTS = st.sampled_from(["a", "b.", "C", "Why?", "الآن", "12", "É!", "x" * 30])


@st.composite
def streams(draw):
    """Words in order: silences, words of no length, words that overlap."""
    words, now = [], draw(st.integers(0, 5000))
    for _ in range(draw(st.integers(0, 5))):
        gap = draw(st.sampled_from([0, 1, 250, 500, 3000, 3001, 20_000]))
        length = draw(st.sampled_from([0, 1, 200, 333, 1000, 250_000]))
        overlap = draw(st.booleans())
        for _ in range(draw(st.integers(1, 400))):
            words.append(
                (now, now + length, draw(TEXTS) if len(words) < 30 else TEXTS.elements[len(words) % 8])
            )
            now += max(1, length // 2 if overlap and length < 900 else length) + (
                gap if gap < 3000 else 0
            )
        now += gap
    return words


NOT_CUT = ("no sentence begins here", "said after the video ends", "all words lie past the end")


@settings(max_examples=150, deadline=None)
@given(streams(), st.booleans(), st.sampled_from([0, 4000]), st.none() | st.integers(1, 2_000_000))
def test_any_stream(words, sft, silence, duration):
    p = dataclasses.replace(SFT if sft else PRETRAIN, trailing_silence_ms=silence)
    given_words = source(words, duration_ms=duration)
    records = cut(given_words, p)
    assert records
    clips = [r for r in records if isinstance(r, Clip)]
    # Every word is in one clip or in one rejection, in order: none invented, none lost.
    total = sum(len(r.words) if isinstance(r, Clip) else r.num_words for r in records)
    assert total == len(words)
    position = 0
    for number, record in enumerate(records if words else []):
        assert record.index in (number, None)
        count = len(record.words) if isinstance(record, Clip) else record.num_words
        part = given_words.words[position : position + count]
        following = given_words.words[position + count : position + count + 1]
        if following and getattr(record, "reason", "") not in NOT_CUT:
            # As long as it may be: the next word would break a bound.
            (word,) = following
            silence_ms, length_ms = word.start_ms - part[-1].end_ms, word.end_ms - part[0].start_ms
            past_end = duration is not None and word.start_ms >= duration
            assert silence_ms > 3000 or length_ms > 240_000 or past_end
        if isinstance(record, Rejection) and record.reason == "shorter than 30 s":
            assert part[-1].end_ms - part[0].start_ms < 30_000
        if isinstance(record, Clip):
            assert record.words == part
            assert (
                not sft
                or position == 0
                or (given_words.words[position - 1].text[-1] in ".?!" and part[0].text[0].isupper())
            )
            assert record.previous == (
                "" if sft else " ".join(w.text for w in given_words.words[:position])
            )
        position += count
    # Within the limits, apart, and within the video.
    for clip in clips:
        length = clip.words[-1].end_ms - clip.words[0].start_ms
        assert 30_000 <= length <= 240_000
        assert sft or length <= len(clip.words) * 1000 <= 4 * length
        assert clip.start_ms == clip.words[0].start_ms < clip.end_ms
        last = max(w.end_ms for w in clip.words)
        assert clip.end_ms == duration or last + 600 <= clip.end_ms <= last + max(2000, silence)
        assert duration is None or clip.end_ms <= duration
        for a, b in itertools.pairwise(clip.words):
            assert b.start_ms - a.end_ms <= 3000
    assert all(a.words[-1].start_ms <= b.words[0].start_ms for a, b in itertools.pairwise(clips))
