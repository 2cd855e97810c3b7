"""Lists of sources and yt-dlp's metadata: a damaged one gives rejections and sources whose fields
are what they say.
"""

import json
from pathlib import Path

from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Rejection, Source, dumps
from livecc_jax.produce.sources.listing import list_sources
from livecc_jax.produce.sources.read import read_source
from tests.fuzz.reader import Reader, all_files

LINE = {"video": "a.mp4", "id": "x", "title": "T", "category": "Sports", "language": "en",
"duration": 61.5,
        "width": 640, "height": 480, "words": [[1.0, 2.0, "a"], [2, 3, "b"]],
        "captions": "a.srt"}  # fmt: skip
INFO = {"id": "v", "title": "V", "duration": 61, "categories": ["Sports"], "language": "en",
"width": 640,
        "height": 480, "license": None, "tags": ["a"], "subtitles": {"en": [{"url": "u"}]},
        "ext": "mp4",
        "automatic_captions": {"en-orig": [{"url": "u"}], "de": [{"url": "u&tlang=de"}]}}  # fmt: skip


def _prepare(folder: Path) -> None:
    (folder / "l.jsonl").write_text(json.dumps(LINE) + "\n" + json.dumps({"video": "b.mp4"}) + "\n")
    (folder / "v.info.json").write_text(json.dumps(INFO))


def _read(folder: Path, file: str):
    path = folder / file if file.endswith(".jsonl") else folder
    for name in ("v.en.vtt", "v.en-orig.json3"):
        (folder / name).touch()
    try:
        return [read_source(entry, PRETRAIN) for entry in list_sources([str(path)])]
    finally:
        for name in ("v.en.vtt", "v.en-orig.json3"):
            (folder / name).unlink()


def _differs(folder: Path, file: str, found) -> str:
    for order, source in enumerate(found):
        if source.order != order:
            return "sources are out of order"
        if isinstance(source, Rejection):
            continue
        if Source.from_json(json.loads(dumps(source.to_json()))) != source:
            return "a source changes on its way through JSON"
        numbers = (source.duration_ms, source.width, source.height)
        if any(n is not None and (type(n) is not int or n <= 0) for n in numbers):
            return f"impossible numbers {numbers}"
        if not all(
            isinstance(t, str) for t in (source.id, source.video, source.title, source.category)
        ):
            return "a text is no text"
    return ""


READER = Reader("sources", _prepare, all_files, _read, _differs, is_text=True, share=0.8, fast=80)
