"""YouTube's own formats: json3 and srv1 to srv3."""

import json

import pytest

from livecc_jax.errors import DataError
from livecc_jax.produce.captions.read import parse_captions

AUTO = {
    "wireMagic": "pb3",
    "pens": [{}],
    "events": [
        {"tStartMs": 0, "dDurationMs": 60000, "id": 1, "wpWinPosId": 1, "wsWinStyleId": 1},
        {"tStartMs": 160, "dDurationMs": 4240, "wWinId": 1, "segs": [
            {"utf8": "so", "acAsrConf": 0}, {"utf8": " the", "tOffsetMs": 320, "acAsrConf": 200},
            {"utf8": " the", "tOffsetMs": 500}, {"utf8": " keeper's on", "tOffsetMs": 640},
            {"utf8": " his", "tOffsetMs": 1240}]},
        {"tStartMs": 2230, "dDurationMs": 2170, "wWinId": 1, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 2240, "dDurationMs": 9000, "wWinId": 1, "segs": [{"utf8": "line",
        "acAsrConf": 0}]},
        {"tStartMs": 4390, "wWinId": 1, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 9000, "dDurationMs": 3000, "wWinId": 1, "segs": [{"utf8": "[Music]"}]},
        {"tStartMs": 10000, "wWinId": 1, "segs": [{"utf8": "end"}, {"utf8": " of", "tOffsetMs": 900}]},
    ],
}  # fmt: skip


def test_json3_automatic(words):
    assert words(json.dumps(AUTO)) == [
        (0.16, 0.48, "so"), (0.48, 0.8, "the"), (0.8, 1.1, "keeper's"), (1.1, 1.4, "on"),
        (1.4, 2.24, "his"),
        (2.24, 3.24, "line"),
        (10.0, 10.0, "end"), (10.0, 10.0, "of"),  # no duration, and no cue after it
    ]  # fmt: skip
    found = parse_captions(json.dumps(AUTO).encode())
    assert (found.kind, found.format) == ("auto", "json3")


def test_json3_manual(words):
    pens = [
        {"utf8": "It's "},
        {"utf8": "un", "pPenId": 1},
        {"utf8": "believable"},
        {"utf8": "\nBob &amp; I"},
    ]
    value = {"events": [{"tStartMs": 1000, "dDurationMs": 2000, "segs": pens},
                        {"tStartMs": 2500, "dDurationMs": 500,
                        "segs": [{"utf8": "(crowd)\n- Yes"}]}]}  # fmt: skip
    assert words(json.dumps(value)) == [
        (1.0, 1.3, "It's"), (1.3, 1.6, "unbelievable"), (1.6, 1.9, "Bob"), (1.9, 2.2, "&"),
        (2.2, 2.5, "I"),
        (2.5, 3.0, "Yes"),
    ]  # fmt: skip
    assert parse_captions(json.dumps(value).encode()).kind == "manual"


def test_offsets_outside_of_the_cue(words):
    """Offsets that run backwards or out of the cue give words within it, in order."""
    segments = [{"utf8": "a"}, {"utf8": " b", "tOffsetMs": 800}, {"utf8": " c", "tOffsetMs": 300},
                {"utf8": " d", "tOffsetMs": 5000}, {"utf8": " e", "tOffsetMs": -7}]  # fmt: skip
    value = {"events": [{"tStartMs": 1000, "dDurationMs": 1000, "segs": segments}]}
    assert words(json.dumps(value)) == [
        (1.0, 1.8, "a"), (1.8, 1.9, "b"), (1.9, 2.0, "c"), (2.0, 2.0, "d"), (2.0, 2.0, "e"),
    ]  # fmt: skip


SRV3 = """<?xml version="1.0" encoding="utf-8" ?><timedtext format="3">
<head><ws id="0"/><wp id="1" ap="6"/></head><body><w t="0" id="1" wp="1" ws="1"/>
<p t="160" d="4240" w="1"><s ac="0">so</s><s t="320" ac="0"> the</s><s p="1"> keep</s><s>er</s></p>
<p t="2230" d="2170" w="1" a="1">
</p>
<p t="2240" d="9000" w="1"><s ac="0">line</s></p>
<p t="9000" d="1000" w="1">[Music]</p>
</body></timedtext>"""


def test_srv3_automatic(words):
    assert words(SRV3) == [
        (0.16, 0.48, "so"), (0.48, 1.36, "the"), (1.36, 2.24, "keeper"), (2.24, 3.24, "line"),
    ]  # fmt: skip
    assert parse_captions(SRV3.encode()).kind == "auto"


def test_srv3_manual(words):
    text = (
        '<timedtext format="3"><body><p t="1000" d="1000">AT&amp;T &lt;i&gt;<br/>- no\n[x]</p>'
        '<p t="3000">b</p><p t="4000" d="0">c</p></body></timedtext>'
    )
    assert words(text) == [
        (1.0, 1.333, "AT&T"), (1.333, 1.666, "<i>"), (1.666, 2.0, "no"), (3.0, 4.0, "b"),
        (4.0, 4.0, "c"),
    ]  # fmt: skip
    assert parse_captions(text.encode()).kind == "manual"


def test_srv1_is_escaped_twice(words):
    text = (
        '<?xml version="1.0" encoding="utf-16" ?><transcript>'
        '<text start="0.5" dur="3.25">it&amp;#39;s &amp;lt;i&amp;gt; &lt;b&gt;here&lt;/b&gt;</text>'
        '<text start="2" dur="1">now</text><text start="7.5">\n</text></transcript>'
    )
    assert words(text) == [(0.5, 1.0, "it's"), (1.0, 1.5, "<i>"), (1.5, 2.0, "here"), (2.0, 3.0, "now")]
    assert parse_captions(text.encode()).kind == ""


def test_srv2(words):
    text = (
        '<timedtext><window id="1"/><text t="1000" d="1000" w="1">a b</text>'
        '<text t="3000" d="500">c</text></timedtext>'
    )
    assert words(text) == [(1.0, 1.5, "a"), (1.5, 2.0, "b"), (3.0, 3.5, "c")]


def test_xml_that_is_not_quite_xml(texts):
    text = '<transcript><text start="1" dur="1">R&B \x0b caf&eacute; &nbsp;&#x1;x</text></transcript>'
    assert texts(text) == "R&B café x"


@pytest.mark.parametrize(
    "text",
    [
        "", " \n", "\ufeff", "{}", "[]", "[1]", "null", '{"events": 3}', "hello", "<html></html>",
        "<tt",
        "<transcript><text start='1'>", "{",
        '{"segments": 1}', "<!DOCTYPE a [<!ENTITY b 'c'>]><tt>&b;</tt>",
        '[{"start": 1e300, "end": 1, "text": "a"}]', "[" * 100_000, "<tt>" + "<p>" * 1000,
    ],
)  # fmt: skip
def test_no_captions(text):
    with pytest.raises(DataError):
        parse_captions(text.encode())


@pytest.mark.parametrize(
    "text", ["WEBVTT", '{"events": []}', '{"segments": []}', "<tt/>", "<timedtext/>", "[Script Info]"]
)
def test_captions_in_which_nothing_is_said(text):
    assert parse_captions(text.encode()).words == ()
