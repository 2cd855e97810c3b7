"""Choosing by metadata, at the bounds; language; distinct words; and the words stage."""

import dataclasses

import pytest

from livecc_jax.errors import ConfigError, DataError
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import (
    FILTERS,
    PRETRAIN,
    SFT,
    STAGE_FIELDS,
    Parameters,
    digest_through,
    parse_value,
    stage_digest,
)
from livecc_jax.produce.records import Rejection, Source, Word
from livecc_jax.produce.stages.language import count_distinct, distinct, language
from livecc_jax.produce.stages.select import read_opt_outs, select
from livecc_jax.produce.stages.words import words
from tests.support.media import make_video

GOOD = Source(0, "abc", "v.mp4", "Title", "Sports", duration_ms=60_000, width=854, height=480)


def reason(record, parameters=PRETRAIN):
    (result,) = select(record, parameters)
    return result.reason if isinstance(result, Rejection) else ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""), ({"width": 480, "height": 854}, ""), ({"height": 479}, "smaller than 480p"),
        ({"width": 479, "height": 854}, "smaller than 480p"), ({"width": None}, "size is not known"),
        ({"duration_ms": 30_000}, ""), ({"duration_ms": 29_999}, "video shorter than 30 s"),
        ({"duration_ms": 600_000}, ""), ({"duration_ms": 600_001}, "video longer than 600 s"),
        ({"duration_ms": None}, "duration is not known"), ({"title": " \u200b\n"}, "title is blank"),
        ({"category": "Music"}, ""),
    ],
)  # fmt: skip
def test_pretraining(fields, expected):
    assert reason(dataclasses.replace(GOOD, **fields)) == expected


@pytest.mark.parametrize(
    ("category", "kept"),
    [("Sports", 1), ("howto and style", 1), ("Howto & Style", 1), ("Music", 0), ("", 0), ("Sport", 0)],
)
def test_categories_of_fine_tuning(category, kept):
    assert (reason(dataclasses.replace(GOOD, category=category), SFT) == "") == bool(kept)


def test_each_filter_alone():
    bad = Source(0, "abc", "v.mp4", category="Music", duration_ms=1, width=1, height=1)
    for name, expected in (
        ("size", "smaller than 480p"), ("duration", "video shorter than 30 s"),
        ("title", "title is blank"), ("category", "category is not wanted"),
    ):  # fmt: skip
        assert reason(bad, SFT.with_filters([name])) == expected
    assert reason(bad, SFT.with_filters([])) == ""


def test_licences_and_opt_outs(tmp_path):
    allowed = dataclasses.replace(PRETRAIN, licences=("Creative Commons Attribution license",))
    assert reason(GOOD, allowed) == "licence is not known"
    free = dataclasses.replace(GOOD, info={"license": "creative commons attribution License"})
    assert reason(free, allowed) == ""
    assert reason(dataclasses.replace(GOOD, info={"license": "x"}), allowed) == "licence is not allowed"
    file = tmp_path / "out.txt"
    file.write_text("# people who asked\nabc # a video\n\n@channel\n", encoding="utf-8-sig")
    opted = dataclasses.replace(PRETRAIN, opt_out=read_opt_outs(file))
    assert reason(GOOD, opted) == "opted out"
    other = dataclasses.replace(GOOD, id="x", info={"uploader_id": "@channel"})
    assert reason(other, opted) == "opted out"
    assert reason(dataclasses.replace(other, info={"uploader_id": "@channels"}), opted) == ""
    for said, fields in (
        ("https://www.youtube.com/watch?v=a-b_c000000&t=3", {"id": "a-b_c000000"}),
        ("youtu.be/a-b_c000000", {"id": "1", "video": "Title [a-b_c000000].mp4"}),
        ("a-b_c000000", {"info": {"webpage_url": "https://youtube.com/shorts/a-b_c000000"}}),
        ("https://www.youtube.com/@Channel/videos", {"info": {"uploader_id": "@channel"}}),
        ("UCabc", {"info": {"channel_url": "https://www.youtube.com/channel/UCabc"}}),
        ("https://example.org/v/", {"info": {"webpage_url": "https://example.org/v"}}),
    ):
        by_address = dataclasses.replace(PRETRAIN, opt_out=(said,))
        assert reason(dataclasses.replace(GOOD, **fields), by_address) == "opted out", said
        assert reason(GOOD, by_address) == "", said
    with pytest.raises(DataError, match="opt-outs cannot be read"):
        read_opt_outs(tmp_path / "missing")


def test_what_is_not_known_is_read_from_the_file(tmp_path):
    path = make_video(tmp_path / "v.mp4", range(0, 1000, 100), frame_rate=10)
    unknown = Source(0, "a", str(path), "T")
    (found,) = select(unknown, PRETRAIN.with_filters(["title"]))
    assert (found.duration_ms, found.width > 0, found.height > 0) == (1000, True, True)


@pytest.fixture(scope="module")
def models():
    return Models()


ENGLISH = "the keeper comes off his line and punches it clear but only as far as the edge of the box"
GERMAN = "der Torwart kommt von der Linie und faustet den Ball nur bis an die Grenze des Strafraums"


def said(text):
    return dataclasses.replace(GOOD, words=tuple(Word(i, i, w) for i, w in enumerate(text.split())))


def test_language(models):
    (kept,) = language(said(ENGLISH), PRETRAIN, models)
    assert kept.words == said(ENGLISH).words
    assert 0.9 <= kept.info["language_probability"] <= 1
    (dropped,) = language(said(GERMAN), PRETRAIN, models)
    assert (dropped.reason, dropped.value["language"]) == ("not en enough", "de")
    german = dataclasses.replace(PRETRAIN, language="de-AT")
    assert not isinstance(language(said(GERMAN), german, models)[0], Rejection)
    assert language(said(ENGLISH), dataclasses.replace(PRETRAIN, language="xx"), models)[0].reason == (
        "language cannot be identified"
    )
    assert language(said(""), PRETRAIN, models)[0].reason == "nothing is said"
    assert language(said(GERMAN), PRETRAIN.with_filters([]), models) == [said(GERMAN)]


def test_distinct_words():
    texts = ["Yes", "yes,", "(YES!)", "-", "…", "straße", "STRASSE", "it's", "a.b", "12", "«non»"]
    assert count_distinct(said(" ".join(texts)).words) == 6
    thirty = " ".join(f"w{i} W{i}." for i in range(30))
    assert distinct(said(thirty), PRETRAIN) == [said(thirty)]
    (dropped,) = distinct(said(thirty.replace("w29", "w28").replace("W29", "w28")), PRETRAIN)
    assert (dropped.reason, dropped.value) == ("fewer than 30 distinct words", 29)
    assert distinct(said("a"), SFT) == [said("a")]


def test_words_of_captions(tmp_path):
    file = tmp_path / "v.en.srt"
    file.write_text("1\n00:00:01,000 --> 00:00:02,000\na b\n")
    (found,) = words(dataclasses.replace(GOOD, captions=str(file)), PRETRAIN)
    assert found.words == (Word(1000, 1500, "a"), Word(1500, 2000, "b"))
    assert found.language == "en"
    file.write_text("no captions")
    (dropped,) = words(dataclasses.replace(GOOD, captions=str(file)), PRETRAIN)
    assert dropped.reason == "captions cannot be read"
    assert dropped.value.startswith(str(file))
    assert words(GOOD, PRETRAIN)[0].reason == "neither words nor captions"
    assert words(dataclasses.replace(GOOD, words=()), PRETRAIN)[0].reason == "nothing is said"
    given_words = dataclasses.replace(GOOD, words=(Word(0, 1, "[x]"),), captions=str(file))
    assert words(given_words, PRETRAIN) == [given_words]


def test_words_of_a_file_of_several_languages_are_in_the_wanted_one(tmp_path):
    file = tmp_path / "v.ttml"
    paragraphs = [
        f'<div xml:lang="{lang}"><p begin="1s" end="2s">{text}</p></div>'
        for lang, text in (("de", "ja"), ("en", "yes"), ("fr", "oui"))
    ]
    file.write_text(f'<tt xmlns="http://www.w3.org/ns/ttml"><body>{"".join(paragraphs)}</body></tt>')
    several = dataclasses.replace(GOOD, captions=str(file))
    (found,) = words(several, PRETRAIN)
    assert ([w.text for w in found.words], found.language) == (["yes"], "en")
    (found,) = words(dataclasses.replace(several, language="fr"), PRETRAIN)
    assert [w.text for w in found.words] == ["oui"]


def test_a_rounded_duration_is_measured_where_it_decides(tmp_path):
    path = make_video(tmp_path / "v.mp4", range(0, 1400, 100), frame_rate=10)
    rounded = Source(
        0, "a", str(path), duration_ms=1000, width=8, height=8, words=(Word(900, 1300, "a"),),
        info={"duration_is_rounded": True},
    )  # fmt: skip
    assert words(rounded, PRETRAIN)[0].duration_ms == 1400
    exact = dataclasses.replace(rounded, info={})
    assert words(exact, PRETRAIN) == [exact]


def test_parameters():
    assert {name for fields in STAGE_FIELDS.values() for name in fields} == {
        f.name for f in dataclasses.fields(Parameters)
    } - {"kind", "filters"}
    changed = dataclasses.replace(PRETRAIN, max_silence_ms=2000)
    assert stage_digest(changed, "cut") != stage_digest(PRETRAIN, "cut")
    assert stage_digest(changed, "language") == stage_digest(PRETRAIN, "language")
    assert digest_through(changed, "text") != digest_through(PRETRAIN, "text")
    assert digest_through(changed, "distinct") == digest_through(PRETRAIN, "distinct")
    no_size = PRETRAIN.with_filters(set(PRETRAIN.filters) - {"size"})
    assert stage_digest(no_size, "select") != stage_digest(PRETRAIN, "select")
    assert set(PRETRAIN.filters) | set(SFT.filters) == set(FILTERS)
    assert parse_value("max_silence_ms", "2000") == 2000
    assert parse_value("min_text_loss", "1.25") == 1.25
    assert parse_value("categories", "Sports, Gaming") == ("Sports", "Gaming")
    for name, text in (
        ("nothing", "1"),
        ("kind", "sft"),
        ("max_silence_ms", "x"),
        ("speech_vad", "maybe"),
    ):
        with pytest.raises(ConfigError):
            parse_value(name, text)
    for fields in ({"kind": "x"}, {"filters": ("x",)}, {"min_clip_ms": 300_000}, {"tail_ms": -1},
                   {"min_words_per_second": float("nan")}, {"shingle_words": 0},
                   {"contamination_words": 0}, {"minhash_permutations": 0}, {"face_frames": 0},
                   {"min_text_similarity": 1.5}, {"min_language_probability": float("nan")},
                   {"max_text_loss": float("nan")}):  # fmt: skip
        with pytest.raises(ConfigError):
            dataclasses.replace(PRETRAIN, **fields)
