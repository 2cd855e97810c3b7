"""One bad line of an annotation file rejects that line; the others are read as they would be alone."""

import json
import tracemalloc

import numpy as np
import pytest

from livecc_jax.data.annotations import records
from livecc_jax.data.annotations.conversations import MAX_TEXT_CHARACTERS
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.errors import DataError, ExampleError


def qa(text, **image):
    content = [{"type": "image", "image": "a.png", **image}] if image else []
    question = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
    return [question, {"role": "assistant", "content": "Yes."}]


def stream(words, **video):
    content = [{"type": "video", "video": "a.mp4", **video}, {"type": "text", "text": "", "title": "T"}]
    answer = [{"type": "text_stream", "text_stream": words}]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def as_line(value):
    return json.dumps(value).encode()


def stamped(number):
    """A streaming conversation whose first word starts at a number spelled in a way of its own."""
    return as_line(stream([[12345, 2, "a"]])).replace(b"12345", number)


BAD_LINES = {
    "deep": (b"[" * 100_000 + b"]" * 100_000, "deep"),
    "never closed": (b'[{"role":' * 30_000, "deep"),
    "5000 digits": (stamped(b"1" * 5000), "digits"),
    "400 digits": (stamped(b"1" * 400), "digits"),
    "1e308": (stamped(b"1e308"), "number of seconds"),
    "1e400": (stamped(b"1e400"), "number of seconds"),
    "1e20": (stamped(b"100000000000000000000"), "number of seconds"),
    "end 1e308": (as_line(stream([[1, 2, "a"]], video_end=1e308)), "number of seconds"),
    "not UTF-8": (b'[{"role": "\xff"}]', "not UTF-8"),
    "not JSON": (b'[{"role": "user"', "broken JSON"),
    "blank": (b"  ", "is blank"),
    "half a character": (as_line(qa("\ud800")), "half a character"),
    "half a character as a role": (as_line([{"role": "\ud800", "content": "x"}]), "role"),
    "NUL in a path": (as_line(qa("x", image="a\0b.png")), "NUL"),
    "path of 10,000 characters": (as_line(qa("x", image="a" * 10_000)), "10000 characters"),
    "declared for 10 years": (as_line(stream([[1, 2, "a"]], duration=3e8)), "more than a week"),
    "declared 10^30 pixels": (as_line(qa("x", width=10**30, height=9)), "whole numbers of pixels"),
    "long title": (as_line(qa("x" * (MAX_TEXT_CHARACTERS + 1))), "characters of text"),
    "long words": (as_line(stream([[1, 2, "x" * 600_000]] * 2)), "characters of text"),
    "other types": (b'{"role": {"content": [[]]}}', "must be a list"),
}


@pytest.mark.parametrize("offsets", [False, True])
def test_each_bad_line_is_rejected_alone(tmp_path, offsets):
    lines = []
    for text, _ in BAD_LINES.values():
        lines += [as_line(qa(f"question {len(lines)}")), text]
    lines.append(as_line(qa(f"question {len(lines)}")))
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)]).tolist()[:-1]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"\n" + as_line(starts) if offsets else b"") + b"\n")
    file = AnnotationFile(path)
    assert file.offsets.tolist() == starts
    raw = list(file.raw_conversations(0, len(file)))
    for number, ((name, (_, reason)), value) in enumerate(
        zip(BAD_LINES.items(), raw[1::2], strict=True)
    ):
        line = 2 * number + 1
        with pytest.raises(ExampleError, match=reason) as error:
            file.parse(line, value)
        assert f"{path} line {line + 1}" in str(error.value), name
        str(error.value).encode()  # it can be printed and stored
        with pytest.raises(ExampleError, match=reason):
            file[line]
    for number, value in enumerate(raw[::2]):
        assert value == qa(f"question {2 * number}")
        file.parse(2 * number, value)


@pytest.mark.parametrize("place", [10, "break"])
def test_a_damaged_line_break_costs_the_lines_beside_it(tmp_path, place):
    lines = [as_line(qa(f"question {i}")) for i in range(5)]
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)]).tolist()[:-1]
    text = bytearray(b"\n".join([*lines, as_line(starts)]) + b"\n")
    at = starts[2] - 1 if place == "break" else starts[2] + place
    text[at] = ord("x") if place == "break" else ord("\n")
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    raw = list(AnnotationFile(path).raw_conversations(0, 5))
    bad = [i for i, value in enumerate(raw) if isinstance(value, ExampleError)]
    assert bad == ([1, 2] if place == "break" else [2])
    assert all(raw[i] == json.loads(lines[i]) for i in range(5) if i not in bad)
    # Offsets of another file are no damage of a line.
    path.write_bytes(b"\n".join([*lines, as_line([0, *(s + 3 for s in starts[1:])])]) + b"\n")
    with pytest.raises(DataError, match="do not match") as error:
        list(AnnotationFile(path).raw_conversations(0, 5))
    assert not isinstance(error.value, ExampleError)


@pytest.mark.parametrize("offsets", [False, True])
def test_a_huge_line_is_rejected_without_being_read(tmp_path, offsets, monkeypatch):
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 1 << 20)
    good = as_line(qa("good"))
    size = 40 << 20
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.write(good + b"\n")
        file.seek(size, 1)  # a hole of NULs
        file.write(b"\n" + good + b"\n")
        if offsets:
            file.write(as_line([0, len(good) + 1, len(good) + size + 2]) + b"\n")
    tracemalloc.start()
    try:
        first, huge, last = AnnotationFile(path).raw_conversations(0, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert first == last == qa("good")
    assert f"has {size + 1} bytes" in str(huge)
    assert peak < 8 << 20
