"""Index directories: every value that is accepted is the one that was written.

An index has checksums, so the independent value is that of the undamaged columns, which numpy reads.
"""

import json
import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.columns import COLUMNS
from livecc_jax.data.index.reader import Index
from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from tests.fuzz.reader import Reader, all_files
from tests.fuzz.readers.tokenizer_files import write_small_tokenizer
from tests.support.media import make_video

INDEX = "index"
FRAME_US = 100_000  # duration of a frame of the video


@cache
def _template(tokenizer: str) -> ChatTemplate:
    return ChatTemplate(open_tokenizer(tokenizer))


def _prepare(folder: Path) -> None:
    write_small_tokenizer(folder / "tokenizer.json")
    make_video(folder / "a.mp4", range(0, 6000, FRAME_US // 1000))
    words = [[0.5 * i, 0.5 * i + 0.4, f"word{i}"] for i in range(12)]
    stream = [
        {"role": "user", "content": [{"type": "video", "video": "a.mp4"}]},
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": words}]},
    ]
    chat = [
        {
            "role": "user",
            "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}],
        },
        {"role": "assistant", "content": "A rabbit."},
    ]
    (folder / "lines.jsonl").write_text("".join(json.dumps(c) + "\n" for c in (stream, chat, stream)))
    tokenizer = _template(str(folder / "tokenizer.json")).tokenizer
    build_index([folder / "lines.jsonl"], folder / INDEX, tokenizer, PixelBudget.parse("12"))
    written = folder.parent / f"{folder.name}.written"
    shutil.copytree(folder / INDEX, written, dirs_exist_ok=True)
    for i, (_, tokens, supervised) in enumerate(_read(folder, "")[1]):
        np.save(written / f"example.{i}.tokens.npy", tokens)
        np.save(written / f"example.{i}.supervised.npy", supervised)


def _read(folder: Path, file: str):
    index, files = Index(folder / INDEX), MediaFiles()
    template, examples = _template(str(folder / "tokenizer.json")), []
    for i in range(len(index)):
        try:
            index.location(i)
            encoded = index.encoded_example(i, template, files)
        except MediaError as error:
            examples.append(str(error))
            continue
        examples.append((index.record(i), encoded.encoded.tokens, encoded.encoded.supervised))
    return index, examples


def _differs(folder: Path, file: str, value) -> str:
    index, examples = value
    written = folder.parent / f"{folder.name}.written"
    for name in COLUMNS:
        stored = np.load(written / f"{name}.npy")
        if name in ("tokens", "targets", "windows") and not np.array_equal(
            getattr(index, name), stored
        ):
            return f"column {name} differs"
    gaps, starts = np.load(written / "frame_gaps_us.npy"), np.load(written / "frame_starts.npy")
    first, media = np.load(written / "media_first_us.npy"), np.load(written / "media_starts.npy")
    for i, example in enumerate(examples):
        if isinstance(example, str):
            if Path(file).name != "meta.json":
                return f"example {i} leads to other files: {example}"
            continue
        expected = [
            first[n] + np.cumsum(gaps[starts[n] : starts[n + 1]], dtype=np.int64)
            for n in range(media[i], media[i + 1])
        ]
        record, *arrays = example
        for values, name in zip(arrays, ("tokens", "supervised"), strict=True):
            if not np.array_equal(values, np.load(written / f"example.{i}.{name}.npy")):
                return f"example {i} has other {name}"
        if not np.array_equal(record.frame_times_us, np.concatenate(expected) + FRAME_US):
            return f"example {i} has other frame times"
    return ""


def _files(folder: Path) -> list[str]:
    return [
        f"{INDEX}/{name}"
        for name in all_files(folder / INDEX)
        if os.path.getsize(folder / INDEX / name)
    ]


READER = Reader("index", _prepare, _files, _read, _differs, is_text=True, share=1.4, fast=25)
