"""Writes clips in the project's annotation format (docs/formats.md, section 1), and the list of
what was dropped.
"""

from __future__ import annotations

import dataclasses
import os
from array import array
from collections.abc import Iterable
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from livecc_jax.data.files.paths import is_remote
from livecc_jax.produce.records import Clip, Rejection, dumps
from livecc_jax.writing import atomic_file

# ".0", ".001", ...: what follows the whole seconds of a number of milliseconds.
_FRACTIONS = [str(ms / 1000)[1:] for ms in range(1000)]


def annotation(clip: Clip, folder: str = "") -> list[dict[str, Any]]:
    """Returns the conversation of a clip: a streaming one of one user and one assistant turn.

    Args:
        clip: The clip.
        folder: Folder of the annotation file; paths that were given relative become relative to it.
            "" leaves paths as they are.
    """
    video: dict[str, Any] = {
        "type": "video",
        "video": relative_path(clip.video, folder),
        "video_start": clip.start_ms / 1000,
        "video_end": clip.end_ms / 1000,
    }
    if clip.duration_ms is not None:
        video["duration"] = clip.duration_ms / 1000
    if clip.width and clip.height:
        video |= {"width": clip.width, "height": clip.height}
    text = {
        "type": "text",
        "text": clip.query,
        "previous": clip.previous,
        "title": clip.title,
        "category": clip.category,
    }
    stream = [[start / 1000, end / 1000, word] for start, end, word in clip.words]
    return [
        {"role": "user", "content": [video, text]},
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": stream}]},
    ]


def relative_path(path: str, folder: str) -> str:
    """Returns a path as an annotation file in a folder has to name it.

    Args:
        path: A path or an address. One that is absolute stays as it is.
        folder: Folder of the annotation file; "" leaves every path as it is.
    """
    if not folder or is_remote(path) or os.path.isabs(path):
        return path
    # The file system looks for `..` from where a link to the folder leads.
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder))


def rejected_line(rejection: Rejection) -> str:
    """Returns the line of `rejected.jsonl` for a rejection, with its line break. Times are in
    seconds.
    """
    clip = rejection.clip
    value = {
        "source": rejection.id,
        "video": rejection.video,
        "clip": None if clip is None else [clip[0] / 1000, clip[1] / 1000],
        "stage": rejection.stage,
        "reason": rejection.reason,
        "value": rejection.value,
        "words": rejection.num_words,
        "text": rejection.text,
    }
    return dumps(value) + "\n"


def annotation_line(clip: Clip, folder: str = "") -> str:
    """Returns the line of `annotations.jsonl` for a clip, with its line break; see `annotation`."""
    user, assistant = annotation(dataclasses.replace(clip, words=()), folder)
    # Most of a line are words; writing them so takes half the time, and gives the same text as `dumps`.
    words = ",".join(
        [
            f"[{start // 1000}{_FRACTIONS[start % 1000]},{end // 1000}{_FRACTIONS[end % 1000]},"
            f"{encode_basestring(word)}]"
            for start, end, word in clip.words
        ]
    )
    before, _, after = dumps(assistant).rpartition('"text_stream":[]')
    return f'[{dumps(user)},{before}"text_stream":[{words}]{after}]\n'


def write_annotations(path: str | Path, lines: Iterable[str | bytes]) -> int:
    """Writes an annotation file whose last line holds the byte offsets of the others, complete or
    not at all.

    Args:
        path: The file.
        lines: The lines, each with its line break.

    Returns:
        The number of lines.

    Raises:
        OutputError: The file cannot be written.
    """
    offsets, size = array("q"), 0
    with atomic_file(path) as file:
        for line in lines:
            data = line.encode() if isinstance(line, str) else line
            offsets.append(size)
            size += file.write(data)
        file.write(b"[")
        for start in range(0, len(offsets), 100_000):
            part = ",".join(map(str, offsets[start : start + 100_000]))
            file.write((", " if start else "").encode() + part.encode())
        file.write(b"]\n")
    return len(offsets)


def write_rejected(path: str | Path, rejections: Iterable[Rejection]) -> int:
    """Writes the list of what was dropped, and returns its length. Raises OutputError."""
    count = 0
    with atomic_file(path) as file:
        for rejection in rejections:
            file.write(rejected_line(rejection).encode())
            count += 1
    return count
