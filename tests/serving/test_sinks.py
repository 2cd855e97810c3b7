"""Files that commentary is written to."""

import html
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import OutputError
from livecc_jax.serving.sinks import JsonLines, Srt, WebVtt, timestamp
from livecc_jax.stream.turn import SpokenTurn


def turn(start, text, stop=None):
    return SpokenTurn(start, stop or start + 1, text, (5, 6), False, 0.0412)


TURNS = [
    turn(0.0, "A rabbit & <friends> ...", 3.0),
    turn(3.0, " ..."),
    turn(4.5, "line\n\nbreak --> x ..."),
]


def test_files_are_complete_after_every_turn(tmp_path):
    files = {kind: tmp_path / kind for kind in ("jsonl", "vtt", "srt")}
    sinks = [JsonLines(files["jsonl"]), WebVtt(files["vtt"]), Srt(files["srt"])]
    for n, spoken in enumerate(TURNS, 1):
        for sink in sinks:
            sink.write(spoken)
        lines = [json.loads(x) for x in files["jsonl"].read_text().splitlines()]
        assert len(lines) == n
        assert files["vtt"].read_text().endswith("\n\n")
    assert lines[0] == {
        "start": 0.0,
        "stop": 3.0,
        "text": "A rabbit & <friends> ...",
        "tokens": [5, 6],
        "latency_ms": 41.2,
    }
    assert files["vtt"].read_text() == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:03.000\nA rabbit &amp; &lt;friends&gt;\n\n"
        "00:00:04.500 --> 00:00:05.500\nline break --&gt; x\n\n"
    )
    assert files["srt"].read_text() == (
        "1\n00:00:00,000 --> 00:00:03,000\nA rabbit & <friends>\n\n"
        "2\n00:00:04,500 --> 00:00:05,500\nline break --> x\n\n"
    )
    with pytest.raises(OutputError, match="cannot be written"):
        WebVtt(tmp_path / "no/such/folder.vtt")


@given(st.integers(0, 10**9))
def test_timestamps_can_be_parsed(ms):
    formatted = timestamp(ms / 1000, ".")
    h, m, s, rest = map(int, re.fullmatch(r"(\d{2,}):(\d\d):(\d\d)\.(\d{3})", formatted).groups())
    assert m < 60
    assert s < 60
    assert ((h * 60 + m) * 60 + s) * 1000 + rest == ms


CUE = r"(\d\d+):([0-5]\d):([0-5]\d)[.,](\d{3})"


def seconds(cue):
    h, m, s, ms = map(int, re.fullmatch(CUE, cue).groups())
    return 3600 * h + 60 * m + s + ms / 1000


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(0, 10**9)), max_size=5))
def test_subtitles_can_be_parsed(tmp_path_factory, turns):
    """Whatever the words, readers find the span and words of each turn that is not silent."""
    folder = tmp_path_factory.mktemp("cues")
    vtt, srt, lines = WebVtt(folder / "v"), Srt(folder / "s"), JsonLines(folder / "j")
    spoken = [
        SpokenTurn(ms / 1000, ms / 1000 + 1, f"{text} ...", (1,), False, 0.0) for text, ms in turns
    ]
    for turn in spoken:
        for sink in (vtt, srt, lines):
            sink.write(turn)
    expected = [(t.start, t.stop, t.words) for t in spoken if t.words]

    def cues(text, skip):
        parsed = []
        for block in text.split("\n\n")[:-1]:
            span, *words = block.split("\n")[skip:]
            assert len(words) == 1
            start, stop = span.split(" --> ")
            parsed.append((seconds(start), seconds(stop), words[0]))
        return parsed

    def read(name):
        with open(folder / name, encoding="utf-8", newline="") as file:
            return file.read()

    head, _, body = read("v").partition("\n\n")
    raw, numbered = cues(body, 0), read("s")
    assert head == "WEBVTT"
    assert not any("<" in words or "-->" in words for _, _, words in raw)
    plain = [html.unescape(re.sub("&(?!(amp|lt|gt);)", "?", words)) for _, _, words in raw]
    assert plain == [words for _, _, words in expected]
    assert [words for _, _, words in cues(numbered, 1)] == plain
    assert re.findall(r"(?:^|\n\n)(\d+)\n\d\d", numbered) == [str(i + 1) for i in range(len(expected))]
    for parsed in (raw, cues(numbered, 1)):
        assert [x[0] for x in parsed] == pytest.approx([x[0] for x in expected], abs=6e-4)
        assert [x[1] for x in parsed] == pytest.approx([x[1] for x in expected], abs=6e-4)
    assert [json.loads(x)["text"] for x in read("j").split("\n")[:-1]] == [t.text for t in spoken]
