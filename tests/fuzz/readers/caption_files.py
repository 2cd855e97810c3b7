"""Caption and transcript files of every format; what is read from a damaged one must still be words
in order.
"""

import itertools
import json
from pathlib import Path

from livecc_jax.produce.captions.read import read_captions
from livecc_jax.produce.records import dumps
from tests.fuzz.reader import Reader, all_files

SEGMENTS = [{"start": 1.0, "end": 2.0, "text": " a b c", "words": [
    {"word": " a", "start": 1.0, "end": 1.25}, {"word": " b"}, {"word": " c", "start": 1.5,
    "end": 2.0}]},
    {"start": 2.0, "end": 3.0, "text": "d"}]  # fmt: skip
TEXTS = {
    "a.json3": json.dumps({"events": [{"tStartMs": 0, "dDurationMs": 9, "id": 1}, {
        "tStartMs": 1000, "dDurationMs": 1000, "segs": [
            {"utf8": "a"}, {"utf8": " b", "tOffsetMs": 250}, {"utf8": " c", "tOffsetMs": 500}]},
        {"tStartMs": 2000, "dDurationMs": 1000, "segs": [{"utf8": "d"}]}]}),
    "a.srv3": '<timedtext format="3"><body><p t="1000" d="1000"><s>a</s><s t="250"> b</s>'
    '<s t="500"> c</s></p>'
    '<p t="2000" d="1000">d</p></body></timedtext>',
    "a.srv1": '<?xml version="1.0"?><transcript><text start="1" dur="1">a b &amp;#99;</text>'
    '<text start="2" dur="1">d</text></transcript>',
    "a.auto.vtt": "WEBVTT\nKind: captions\nLanguage: en\n\n00:00:01.000 --> 00:00:01.990 a:b\n \n"
    "a<00:00:01.250><c> b</c><00:00:01.500><c> c</c>\n\n00:00:01.990 --> 00:00:02.000\na b c\n \n\n"
    "00:00:02.000 --> 00:00:03.000\na b c\nd\n",
    "a.vtt": "WEBVTT\n\nNOTE x\n\n1\n00:01.000 --> 00:02.000 line:0\n<v Bob>a <i>b</i> c\n\n"
    "00:02.000 --> 00:03.000\nd &lt;\n",
    "a.srt": "1\n00:00:01,000 --> 00:00:02,000\n<i>a</i> b\n- c\n\n2\n"
    "00:00:02,000 --> 00:00:03,000\nd\n\n",
    "a.ttml": '<tt xmlns="http://www.w3.org/ns/ttml" xmlns:p="http://www.w3.org/ns/ttml#parameter" '
    'p:frameRate="25" xml:lang="en"><body><div><p begin="00:00:01:00" end="50f">a <span>b</span>'
    '<br/>c</p>'
    '<p begin="2s" dur="1000ms">d</p></div></body></tt>',
    "a.ass": "[Script Info]\nTitle: x\n\n[Events]\nFormat: Layer, Start, End, Style, Text\n"
    "Dialogue: 0,0:00:01.00,0:00:02.00,D,{\\i1}a b\\Nc\nDialogue: 0,0:00:02.00,0:00:03.00,D,d\n",
    "whisperx.json": json.dumps({"segments": SEGMENTS, "language": "en"}),
    "list.json": json.dumps(SEGMENTS),
}  # fmt: skip


def _prepare(folder: Path) -> None:
    for name, text in TEXTS.items():
        (folder / name).write_bytes(text.encode("utf-16" if name == "a.srt" else "utf-8"))


def _read(folder: Path, file: str):
    return read_captions(str(folder / file))


def _differs(folder: Path, file: str, found) -> str:
    words = found.words
    if any(not text or text.split() != [text] for _, _, text in words) and found.format != "asr":
        return "a word holds white space, or nothing"
    if any(start < 0 or end < start for start, end, _ in words):
        return "a word ends before it starts"
    if any(b.start_ms < a.start_ms or b.end_ms < a.end_ms for a, b in itertools.pairwise(words)):
        return "words run backwards"
    if json.loads(dumps(words)) != [list(word) for word in words]:
        return "words cannot be written"
    if (folder / file).read_bytes() in (TEXTS[file].encode(), TEXTS[file].encode("utf-16")):
        starts = [start for start, _, _ in words]
        if (
            [text for _, _, text in words][:4] != ["a", "b", "c", "d"]
            or starts[0] != 1000
            or starts[3] != 2000
        ):
            return f"undamaged, but {words}"
    return ""


READER = Reader("captions", _prepare, all_files, _read, _differs, is_text=True, share=1.2, fast=120)
