"""Sources: JSON lists, folders as yt-dlp leaves them, globs, buckets."""

import json
import os
import re

import fsspec
import pytest

from livecc_jax.errors import DataError
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Rejection, Source, Word
from livecc_jax.produce.sources.listing import list_sources
from livecc_jax.produce.sources.metadata import youtube_id
from livecc_jax.produce.sources.read import read_source


def sources(*paths, parameters=PRETRAIN):
    return [read_source(entry, parameters) for entry in list_sources([str(p) for p in paths])]


def write(folder, names):
    for name, content in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_list(tmp_path):
    lines = [
        {"video": "a.mp4", "title": "T", "category": "Sports", "captions": "c/a.srt", "language": "en",
         "duration": 61.5, "width": 640.0, "height": 480, "license": "CC", "unknown": 1},
        {"video": "/x/dQw4w9WgXcQ.mp4", "words": [[0.0004, 33.3, " hi "], [34, 35, " "], [34, 35,
        "x"]]},
        {"video": "gs://b/T [dQw4w9WgXcQ].mp4", "id": "mine", "title": None, "words": []},
    ]  # fmt: skip
    file = tmp_path / "l.jsonl"
    file.write_text("\ufeff" + "\r\n\n".join(map(json.dumps, lines)))
    a, b, c = sources(file)
    assert a == Source(
        0, "a.mp4", str(tmp_path / "a.mp4"), "T", "Sports", str(tmp_path / "c/a.srt"), "",
        "en", 61_500, 640,
        480, None, {"license": "CC"},
    )  # fmt: skip
    assert (b.id, b.video, b.order) == ("dQw4w9WgXcQ", "/x/dQw4w9WgXcQ.mp4", 1)
    assert b.words == (Word(0, 33_300, "hi"), Word(34_000, 35_000, "x"))
    assert (c.id, c.video, c.words, c.title) == ("mine", "gs://b/T [dQw4w9WgXcQ].mp4", (), "")


WORDS = "words are no list of [start, end, word]"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line cannot be read"),
        ("[]", "line is no JSON object"),
        ("{}", "video does not name a file"),
        ('{"video": 3}', "video does not name a file"),
        ('{"video": "a\\u0000"}', "video does not name a file"),
        ('{"video": "a", "title": 3}', "title is no text"),
        ('{"video": "a", "duration": "9"}', "duration is no number of seconds above 0"),
        ('{"video": "a", "duration": NaN}', "duration is no number of seconds above 0"),
        ('{"video": "a", "duration": 0}', "duration is no number of seconds above 0"),
        ('{"video": "a", "width": 1.5}', "width is no whole number of pixels"),
        ('{"video": "a", "height": true}', "height is no whole number of pixels"),
        ('{"video": "a", "words": [[1, 2]]}', WORDS),
        ('{"video": "a", "words": 3}', WORDS),
        ('{"video": "a", "words": [[1, NaN, "x"]]}', WORDS),
        ('{"video": "a", "words": [[1, 2, 3]]}', WORDS),
        ('{"video": "a", "words": [["1", "2", "x"]]}', WORDS),
        ('{"video": "a", "words": {"a": 1}}', WORDS),
        ('{"video": "a", "words": [[-1, 2, "x"]]}', "words have impossible times"),
        ('{"video": "a", "words": [[1, 1e300, "x"]]}', "words have impossible times"),
        ('{"video": "a", "title": "\\ud800"}', "line cannot be read"),
    ],
)
def test_bad_lines_are_rejections(tmp_path, line, reason):
    (tmp_path / "l.jsonl").write_text(line + '\n{"video": "b"}')
    bad, good = sources(tmp_path / "l.jsonl")
    assert isinstance(bad, Rejection)
    assert bad.reason.startswith(reason)
    assert (bad.stage, bad.order, good.order, good.id) == ("source", 0, 1, "b")


def test_a_line_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("livecc_jax.produce.sources.listing.MAX_LINE_BYTES", 100)
    lines = [json.dumps({"video": "a", "title": "x" * n}) for n in (10, 90, 500)]
    (tmp_path / "l.jsonl").write_text("\n".join([*lines, '{"video": "b"}']))
    found = sources(tmp_path / "l.jsonl")
    assert [getattr(f, "reason", "") for f in found] == ["", "line is too long", "line is too long", ""]


INFO = {
    "id": "dQw4w9WgXcQ", "title": "A: B?", "duration": 61, "categories": ["Sports"], "language": "en",
    "width": 640, "height": 480, "license": None, "channel_id": "UC1", "subtitles": {}, "ext": "mp4",
    "automatic_captions": {"en-orig": [{"url": "u"}], "en": [{"url": "u"}],
    "de": [{"url": "u&tlang=de"}]},
}  # fmt: skip


def test_a_folder_of_yt_dlp(tmp_path):
    name = "A： B？ [dQw4w9WgXcQ]"
    write(tmp_path, {
        f"{name}.mp4": "", f"{name}.info.json": INFO, f"{name}.en-orig.vtt": "",
        f"{name}.en-orig.json3": "",
        f"{name}.en.json3": "", f"{name}.de.json3": "", f"{name}.live_chat.json": "",
        f"{name}.webp": "",
        "PLAYLIST [PL1].info.json": {"_type": "playlist", "id": "PL1"},
        "sub/plain.mkv": "", "sub/plain.srt": "", "sub/a.mp4.part": "", ".hidden.mp4": "",
    })  # fmt: skip
    first, playlist, plain = sources(tmp_path)
    assert first == Source(
        0, "dQw4w9WgXcQ", str(tmp_path / f"{name}.mp4"), "A: B?", "Sports",
        str(tmp_path / f"{name}.en-orig.json3"),
        "auto", "en", 61_000, 640, 480, None, {"channel_id": "UC1", "duration_is_rounded": True},
    )  # fmt: skip
    assert playlist.reason == "info.json describes a playlist"
    assert (plain.title, plain.captions, plain.order) == ("plain", str(tmp_path / "sub/plain.srt"), 2)


@pytest.mark.parametrize(
    ("files", "info", "chosen"),
    [
        # Manual before automatic, the exact language before a region, json3 before vtt.
        (["en.vtt", "en-orig.json3"], {"subtitles": {"en": []}}, "en.vtt manual en"),
        (["en-GB.srt", "en.vtt"], {"subtitles": {"en": [], "en-GB": []}}, "en.vtt manual en"),
        (["en-GB.srt", "en-orig.vtt"], {"subtitles": {"en-GB": []}}, "en-GB.srt manual en-GB"),
        (["en.vtt", "en.json3", "en.srv3"], {}, "en.json3 auto en"),
        (["en.srv1", "en.ttml", "en.srt"], {}, "en.ttml auto en"),
        # Automatic captions only in the language that is spoken.
        (["en.json3"], {"language": "de"}, ""),
        (["en.json3"], {"language": None}, "en.json3 auto en"),
        (["en.json3"], {"language": None, "automatic_captions": {"en": [{"url": "u&tlang=en"}]}}, ""),
        (["en.json3"], {"language": None, "automatic_captions": {"en": [], "de-orig": []}}, ""),
        (["de.json3"], {}, ""),
        (["en-orig.vtt", "en.json3"], {}, "en-orig.vtt auto en"),
        # A file that lies beside the video, of which nothing is known.
        (["json"], {"automatic_captions": {}}, "json asr "),
        (["json", "en-orig.vtt"], {}, "json asr "),
        (["srt", "en.vtt"], {"subtitles": {"en": []}}, "en.vtt manual en"),
        (["en.srt"], {"automatic_captions": {}}, "en.srt  en"),
        (["xx.yy.srt", "info.srt", "en.txt"], {}, ""),
    ],
)  # fmt: skip
def test_which_captions(tmp_path, files, info, chosen):
    write(tmp_path, {"v.mp4": "", "v.info.json": INFO | info} | {f"v.{f}": "" for f in files})
    (found,) = sources(tmp_path)
    name = os.path.basename(found.captions)[2:]
    assert (f"{name} {found.captions_kind} {found.language}" if name else "") == chosen


def test_captions_in_another_language(tmp_path):
    import dataclasses

    write(
        tmp_path,
        {"v.mp4": "", "v.info.json": INFO | {"language": "de"}, "v.de.vtt": "", "v.en.vtt": ""},
    )
    german = dataclasses.replace(PRETRAIN, caption_language="de")
    assert sources(tmp_path, parameters=german)[0].captions == ""  # a translation, by its address
    info = INFO | {"language": "de", "automatic_captions": {"de": [{"url": "u"}], "en": [{"url": "u"}]}}
    write(tmp_path, {"v.info.json": info})
    assert sources(tmp_path, parameters=german)[0].captions.endswith("v.de.vtt")


def test_names_that_begin_alike_and_parts(tmp_path):
    write(tmp_path, {
        "a.mp4": "", "a.b.mp4": "", "a.b.en.srt": "", "a.en.srt": "", "c.f137.mp4": "",
        "c.f140.m4a": "",
        "c.info.json": INFO, "d.webm": "", "d.mp4": "", "e.f1.mp4": "", "e.f1.info.json": INFO,
        "only.info.json": INFO, "broken.info.json": "{", "half.info.json": '{"title": "a\\ud800"}',
    })  # fmt: skip
    found = {os.path.basename(s.video): s for s in sources(tmp_path)}
    assert list(found) == [
        "a.mp4", "a.b.mp4", "", "c.f137.mp4", "d.mp4", "e.f1.mp4", "half.mp4", "only.mp4",
    ]  # fmt: skip
    assert found["a.b.mp4"].captions.endswith("a.b.en.srt")
    assert found["a.mp4"].captions.endswith("/a.en.srt")
    assert found["c.f137.mp4"].title == found["e.f1.mp4"].title == found["only.mp4"].title == "A: B?"
    assert found["half.mp4"].title == "a?"
    assert found[""].reason == "info.json cannot be read"


def test_globs_files_and_order(tmp_path):
    write(tmp_path, {f"d{i}/v{j}.mp4": "" for i in (2, 1) for j in (2, 1)} | {"d1/v1.en.srt": ""})
    write(tmp_path, {"x.jsonl": '{"video": "a"}\n', "[odd].mp4": ""})
    names = [
        os.path.relpath(s.video, tmp_path)
        for s in sources(f"{tmp_path}/d*/v*.mp4", tmp_path / "x.jsonl")
    ]
    assert names == ["d1/v1.mp4", "d1/v2.mp4", "d2/v1.mp4", "d2/v2.mp4", "a"]
    assert [s.order for s in sources(f"{tmp_path}/*.jsonl", tmp_path)] == list(range(6))
    (one,) = sources(tmp_path / "d1" / "v1.mp4")
    assert one.captions.endswith("v1.en.srt")
    assert len(sources(tmp_path / "[odd].mp4")) == 1
    assert [os.path.basename(s.video) for s in sources(f"{tmp_path}/d*")] == ["v1.mp4", "v2.mp4"] * 2


def test_a_bucket():
    files = {
        "v.mp4": "x",
        "v.info.json": json.dumps(INFO),
        "v.en-orig.json3": "{}",
        "l.jsonl": '{"video": "w.mp4"}',
    }
    store = fsspec.filesystem("memory")
    for name, content in files.items():
        store.pipe(f"/yt-dlp-folder/{name}", content.encode())
    (listed,) = sources("memory://yt-dlp-folder/l.jsonl")
    assert listed.video == "memory://yt-dlp-folder/w.mp4"
    for address in ("memory://yt-dlp-folder/*.mp4", "memory://yt-dlp-folder/v.mp4"):
        (found,) = sources(address)
        assert found.video.endswith("/yt-dlp-folder/v.mp4")
        assert (found.title, found.captions.endswith("v.en-orig.json3")) == ("A: B?", True)
    assert len(sources("memory://yt-dlp-folder")) == 2


@pytest.mark.parametrize(
    "name", ["missing", "missing.mp4", "missing.jsonl", "empty", "none*.mp4", "a\0b"]
)
def test_nothing_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=re.split("[\0*]", name)[0]):
        sources(tmp_path / name)


def test_ids():
    assert youtube_id("dQw4w9WgXcQ") == youtube_id("A [b] [dQw4w9WgXcQ]") == "dQw4w9WgXcQ"
    assert youtube_id("match") == youtube_id("[short]") == youtube_id("dQw4w9WgXcQ x") == ""
