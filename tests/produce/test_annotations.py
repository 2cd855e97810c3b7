"""What `livecc produce` and `livecc captions` write is what others read, and no word is lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.index.reader import Index
from livecc_jax.media.gaps import sample_moments
from livecc_jax.media.video import probe
from livecc_jax.produce.annotations import (
    annotation,
    annotation_line,
    relative_path,
    write_annotations,
)
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Clip, Source, Word, dumps
from livecc_jax.produce.stages.cut import cut
from tests.support.media import make_video

TEXT = "Étienne scores ⚽ for نادي now and the crowd is on its feet again"


def speech(seconds, every=0.4, start=0.0):
    """Words as a list has them, without a pause; sentences begin with capitals."""
    texts = TEXT.split()
    times = np.arange(start, seconds - every, every)
    words = [
        [round(t, 3), round(t + every - 0.05, 3), texts[i % len(texts)] + "." * (i % 13 == 12)]
        for i, t in enumerate(times.tolist())
    ]
    words[-1][2] = "end."
    return words


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_list_without_videos(tmp_path, small_tokenizer, capsys, kind):
    lines = [
        {"video": f"v/{i}.mp4", "duration": 300, "width": 640, "height": 360, "title": f"T {i}",
         "category": "Sports", "words": speech(60, start=3.3) + speech(290, start=100)}
        for i in range(2)
    ]  # fmt: skip
    source = tmp_path / "sources.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    assert main(["produce", kind, str(source), "--out", str(out), "--filters", "none"]) == 0
    data = (out / "annotations.jsonl").read_bytes()
    *conversations, last = data.splitlines(keepends=True)
    assert json.loads(last) == [sum(map(len, conversations[:i])) for i in range(4)]
    for number, line in enumerate(conversations):
        user, assistant = json.loads(line)
        video, text = user["content"]
        (stream,) = assistant["content"]
        words = lines[number // 2]["words"]
        first = 0 if number % 2 == 0 else len(speech(60, start=3.3))
        part = words[:first] if first else words[first : first + len(speech(60, start=3.3))]
        said = words[first:] if first else part
        assert stream == {"type": "text_stream", "text_stream": said}
        assert video == {
            "type": "video", "video": str(tmp_path / f"v/{number // 2}.mp4"), "video_start": said[0][0],
            "video_end": round(said[-1][1] + 0.6, 3), "duration": 300.0, "width": 640, "height": 360,
        }  # fmt: skip
        previous = " ".join(w[2] for w in words[:first]) if kind == "pretrain" else ""
        assert text == {
            "type": "text", "text": "", "previous": previous, "title": f"T {number // 2}",
            "category": "Sports",
        }  # fmt: skip
    index = tmp_path / "index"
    arguments = ["--tokenizer", str(small_tokenizer), "--provisional", "--pixel-budget", "16"]
    assert (
        main(
            ["index", str(out / "annotations.jsonl"), "--out", str(index), "--workers", "0", *arguments]
        )
        == 0
    )
    opened = Index(index)
    assert not opened.rejected
    assert not opened.reordered["words"]


@pytest.mark.parametrize("stamps", ["25 FPS", "10 FPS", "varying"])
def test_frames_show_every_word(tmp_path, stamps):
    """The last sampled frame comes after the last word, wherever the clip ends in the video."""
    times = {
        "25 FPS": range(0, 60_000, 40), "10 FPS": range(0, 60_000, 100),
        "varying": [t + (t * 7) % 31 for t in range(0, 60_000, 50)],
    }[stamps]  # fmt: skip
    info = probe(make_video(tmp_path / "v.mp4", times, size=(32, 32)))
    for offset in (0, 130, 270, 333, 499):
        words = tuple(Word(offset + 300 * i, offset + 300 * i + 290, "w") for i in range(120))
        duration = int(info.frame_times_us[-1]) // 1000
        (clip,) = cut(Source(0, "a", "v.mp4", words=words, duration_ms=duration), PRETRAIN)
        shown = sample_moments(info, clip.start_ms * 1000, clip.end_ms * 1000)
        assert info.frame_times_us[shown.indices][-1] >= words[-1].end_ms * 1000


def test_a_clip_of_a_real_video(tmp_path, small_tokenizer, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "my match.mp4", range(0, 40_000, 100), size=(48, 64))
    srt = ""
    for i, start in enumerate(range(0, 36, 4)):
        srt += f"{i + 1}\n00:00:{start:02},000 --> 00:00:{start + 4:02},000\n{TEXT} {i}\n\n"
    (folder / "my match.srt").write_text(srt)
    out = tmp_path / "out"
    filters = "size,duration,title,distinct"
    arguments = ["--filters", filters, "--set", "min_distinct_words=12", "--set", "min_side=48"]
    assert (
        main(["produce", "pretrain", str(folder), "--out", str(out), "--to", "tfds", *arguments]) == 0
    )
    example = AnnotationFile(out / "annotations.jsonl")[0]
    assert (example.title, len(example.words)) == ("my match", 9 * 15)
    dataset = out / "streaming_clips" / "1.0.0"
    for number, source in enumerate((out / "annotations.jsonl", dataset)):
        index = tmp_path / f"index{number}"
        options = ["--tokenizer", str(small_tokenizer), "--pixel-budget", "16", "--workers", "0"]
        assert main(["index", str(source), "--out", str(index), *options]) == 0
        assert len(Index(index)) == 1
    capsys.readouterr()
    options = ["--tokenizer", str(small_tokenizer), "--pixel-budget", "16"]
    assert main(["inspect", str(out / "annotations.jsonl"), "--example", "0", *options]) == 0
    printed = capsys.readouterr().out
    assert all(f"again {i}" in printed or f" {i}" in printed for i in range(9))


def test_no_clips(tmp_path):
    assert write_annotations(tmp_path / "a.jsonl", []) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b"[]\n"


def test_offsets_are_bytes(tmp_path):
    clip = Clip(0, 0, "a", "v.mp4", 1, 2, (Word(1, 2, "é⚽"),), title="\u2028")
    lines = [annotation_line(clip)] * 3
    write_annotations(tmp_path / "a.jsonl", lines)
    file = AnnotationFile(tmp_path / "a.jsonl")
    size = len(lines[0].encode())
    assert file.offsets.tolist() == [0, size, 2 * size]
    assert file[2].words[0].text == "é⚽"


def test_paths(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert relative_path("/x/v.mp4", str(out)) == "/x/v.mp4"
    assert relative_path("gs://b/v.mp4", str(out)) == "gs://b/v.mp4"
    assert relative_path("v.mp4", "") == "v.mp4"
    moved = relative_path("data/v.mp4", str(out))
    assert (out / moved).resolve() == Path("data/v.mp4").resolve()


def test_records_are_written_in_one_way():
    source = Source(0, "a", "v", words=(Word(0, 1, "é"),), info={"x": float("nan"), "y": [1.5]})
    text = dumps(source.to_json())
    assert text == dumps(source.to_json())
    assert '"words":[[0,1,"é"]],"info":{"x":null,"y":[1.5]}' in text
    clip = Clip(0, 0, "a", "v", 0, 1, (Word(0, 1, "é"),), measures={"text_loss": 2.5})
    assert Clip.from_json(json.loads(dumps(clip.to_json()))) == clip
    assert "duration" not in annotation(clip)[0]["content"][0]
    words = tuple(Word(t, t + 7, '"\\\u2028é\n') for t in (*range(1, 3000, 7), 10**12, 0))
    clip = Clip(0, 0, 'a"text_stream":[]', "v", 0, 1, words, title='"text_stream":[]')
    assert annotation_line(clip) == dumps(annotation(clip)) + "\n"


def test_captions_command(tmp_path, capsys):
    file = tmp_path / "x.en.srt"
    file.write_bytes("1\n00:00:01,000 --> 00:00:02,500\nh\u00e9 \x1b7ho\n".encode("utf-16"))
    out = tmp_path / "w.json"
    assert main(["captions", str(file), "--json", str(out)]) == 0
    assert json.loads(out.read_text()) == {
        "kind": None, "language": "en", "words": [[1.0, 1.75, "hé"], [1.75, 2.5, "\x1b7ho"]],
    }  # fmt: skip
    assert main(["captions", str(out)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    for content in (b"", b"nothing", b"\xff\xfe"):
        (tmp_path / "bad").write_bytes(content)
        assert main(["captions", str(tmp_path / "bad"), "--json", str(out)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "bad" in message
    assert main(["captions", str(tmp_path / "missing")]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--filters", "none,size"], ["--filters", "sise"], ["--set", "x"], ["--set", "x=1"],
        ["--trailing-silence", "-1"], ["--trailing-silence", "nan"], ["--frames", "16"],
        ["--opt-out", "/nowhere"], ["--set", "min_clip_ms=999999"],
    ],
)  # fmt: skip
def test_options_that_are_refused(tmp_path, capsys, arguments):
    (tmp_path / "s.jsonl").write_text('{"video": "a"}\n')
    command = ["produce", "sft", str(tmp_path / "s.jsonl"), "--out", str(tmp_path / "out"), *arguments]
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
