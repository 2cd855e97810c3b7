"""Annotation files: line offsets, and errors for every way in which files can be wrong."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.errors import DataError, ExampleError
from livecc_jax.timeline.example import ChatExample, ImageFile, StreamExample, VideoClip, Word


def stream(words, **text):
    return [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": "clip.mp4", "video_start": 1.5, "video_end": 9},
                {"type": "text", "text": "", **text},
            ],
        },
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": words}]},
    ]


def write(path, conversations, offsets=True):
    # Alternately as UTF-8 and as JSON escapes.
    lines = [
        json.dumps(c, ensure_ascii=bool(i % 2)).encode() + b"\n" for i, c in enumerate(conversations)
    ]
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    tail = json.dumps(starts).encode() + b"\n" if offsets else b""
    path.write_bytes(b"".join(lines) + tail)
    return path


BACKWARDS = {"type": "video", "video": "v", "video_start": 3, "video_end": 2}
QA = [
    {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Q?"}]},
    {"role": "assistant", "content": "A."},
]


def test_a_conversation_becomes_an_example(tmp_path):
    path = write(tmp_path / "a.jsonl", [stream([[1, 2.25, "hi"]], title="T", previous="P"), QA])
    file = AnnotationFile(path)
    clip = VideoClip(str(tmp_path / "clip.mp4"), 1_500_000, 9_000_000)
    assert file[0] == StreamExample(clip, (Word(1_000_000, 2_250_000, "hi"),), "", "T", "P", "")
    assert isinstance(file[1], ChatExample)
    assert file[1].messages[0].content == (ImageFile(str(tmp_path / "a.png")), "Q?")
    assert file[1].messages[1].content == ("A.",)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_lines_are_found_with_and_without_offsets(tmp_path_factory, titles, offsets, final_newline):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    titles = [t.encode("utf-8", "ignore").decode() for t in titles]
    write(path, [stream([[2, 3, "w"]], title=t) for t in titles], offsets)
    if not final_newline:
        path.write_bytes(path.read_bytes()[:-1])
    file = AnnotationFile(path)
    assert [e.title for e in file] == titles


def test_many_threads_read_one_file(tmp_path):
    titles = [f"title {i}" * (i % 7 + 1) for i in range(300)]
    file = AnnotationFile(write(tmp_path / "a.jsonl", [stream([[2, 3, "w"]], title=t) for t in titles]))
    order = np.random.default_rng(0).integers(0, len(titles), 6000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: file[i].title, order)) == [titles[i] for i in order]


def test_blank_lines_at_the_end_are_ignored(tmp_path):
    path = write(tmp_path / "a.jsonl", [QA, QA], offsets=False)
    path.write_bytes(path.read_bytes() + b"\n  \n\n")
    assert len(list(AnnotationFile(path))) == 2


def broken(tmp_path, content):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b'[{"role": "user"\n', "line 1: broken JSON"),
        (b'["\xff\xfe"]\n', "line 1: is not UTF-8"),
        (b"[1]\n[0]\n[0, 7]\n", "do not match"),
        (b'["aa"]\n["bb"]\n[0, 5]\n', "do not match its lines"),
        (b'["aa"]\n["bb"]\n[0]\n', "do not match its lines"),
        (b'["aa"]\n["bb"]\n[7, 0]\n', "do not match"),
        (b'["aa"]\n[]\n', "do not match"),
        (b"[]\n", "do not match"),
        (b'["aa"]\n[99999999999999999999999]\n', "do not match"),
        (b'\n["aa"]\n', "line 1 is blank"),
        (b" \n\n", "is empty"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, reason):
    path = broken(tmp_path, content)
    with pytest.raises(DataError, match=reason) as error:
        list(AnnotationFile(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ({}, "must be a list"),
        ([{"content": []}], "an object with a role"),
        (stream([[1, 2]]), r"word 0 must be \[start, end, word\]"),
        (stream([[1, float("nan"), "a"]]), "word 0 end must be a number"),
        (stream([[1, "2", "a"]]), "word 0 end must be a number"),
        (stream([[1, 2, "\ud800"]]), r"'\\ud800' holds half a character"),
        ([{"role": "user", "content": "\udfff"}], "holds half a character"),
        (stream([], title=3), "'title' must be a string"),
        ([*stream([[1, 2, "a"]]), QA[0]], "one user and one assistant turn"),
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "type 'audio'"),
        (
            [
                {
                    "role": "user",
                    "content": [BACKWARDS],
                }
            ],
            "video_end 2 is not after video_start 3",
        ),
    ],
)
def test_an_unusable_conversation_is_named(tmp_path, conversation, reason):
    path = write(tmp_path / "a.jsonl", [QA, conversation])
    with pytest.raises(ExampleError, match=reason) as error:
        AnnotationFile(path)[1]
    assert f"{path} line 2" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        AnnotationFile(tmp_path / "gone.jsonl")
