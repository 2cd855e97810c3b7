"""Annotation files, with and without offsets: lines and words as Python's `json` finds them."""

import json
from pathlib import Path

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.errors import ExampleError
from livecc_jax.timeline.example import StreamExample
from tests.fuzz.reader import Reader, all_files
from tests.fuzz.readers.json_texts import same

STREAM = [
    {"role": "user", "content": [
        {"type": "video", "video": "a.mp4", "video_start": 0.5, "video_end": 30},
        {"type": "text", "text": "", "title": "Big Buck Bunny", "previous": None}]},
    {"role": "assistant", "content": [
        {"type": "text_stream",
         "text_stream": [[1.0, 1.23, "A"], [1.23, 1.49, " big"], [2, 3.5, "ü"]]}]},
]  # fmt: skip
CHAT = [
    {"role": "user", "content": [
        {"type": "image", "image": "a.png", "width": 28, "height": 56},
        {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "A rabbit."},
]  # fmt: skip
LINES = [json.dumps(c, ensure_ascii=i > 1) + "\n" for i, c in enumerate((STREAM, CHAT, STREAM, CHAT))]


def _prepare_lines(folder: Path) -> None:
    (folder / "plain.jsonl").write_text("".join(LINES))


def _prepare_offsets(folder: Path) -> None:
    starts = [sum(len(line.encode()) for line in LINES[:i]) for i in range(len(LINES))]
    (folder / "offsets.jsonl").write_text("".join(LINES) + json.dumps(starts) + "\n")


def _read(folder: Path, file: str):
    annotations = AnnotationFile(folder / file)
    raw = list(annotations.raw_conversations(0, len(annotations)))
    parsed = []
    for i, value in enumerate(raw):
        try:
            parsed.append(annotations.parse(i, value))
        except ExampleError:
            parsed.append(None)
    return annotations.offsets.tolist(), annotations.end, raw, parsed


def _differs(folder: Path, file: str, value) -> str:
    offsets, end, raw, parsed = value
    data = (folder / file).read_bytes()
    for number, (start, stop) in enumerate(zip(offsets, [*offsets[1:], end])):
        # A damaged line break spoils the lines beside it; whole lines alone are read.
        line = data[start:stop]
        if isinstance(raw[number], ExampleError):
            continue
        if (start and data[start - 1 : start] != b"\n") or b"\n" in line.rstrip(b"\r\n"):
            return f"line {number + 1} was accepted, but bytes {start} to {stop} are no line"
        expected = json.loads(line.decode())
        if not same(raw[number], expected):
            return f"line {number + 1} is {raw[number]!a:.60}, not {expected!a:.60}"
        if isinstance(parsed[number], StreamExample) and (
            wrong := _words_differ(parsed[number], expected)
        ):
            return f"line {number + 1}: {wrong}"
    lines = data.count(b"\n", 0, end) + (data[end - 1 : end] != b"\n")
    return "" if lines == len(offsets) or _is_listed(data) else f"has {lines} lines, not {len(offsets)}"


def _is_listed(data: bytes) -> bool:
    """Whether the last line holds offsets: they say which lines there are."""
    last = data.rstrip(b" \t\r\n\f\v").rsplit(b"\n", 1)[-1]
    return last.startswith(b"[") and b'"' not in last


def _words_differ(example: StreamExample, expected) -> str:
    words = expected[1]["content"][0]["text_stream"]
    if sorted(w.text for w in example.words) != sorted(text for _, _, text in words):
        return "other words than in the file"
    times = [(w.start_us, w.end_us) for w in example.words]
    if not example.reordered and times != [(round(a * 1e6), round(b * 1e6)) for a, b, _ in words]:
        return "other times than in the file"
    return ""  # words far out of order are refused when turns are built of them


READER = Reader(
    "annotations", _prepare_lines, all_files, _read, _differs, is_text=True, share=1.2, fast=60
)
OFFSETS = Reader(
    "offsets", _prepare_offsets, all_files, _read, _differs, is_text=True, share=1.0, fast=60
)
