"""Files of commentary: JSON lines, WebVTT and SRT, each written as a turn ends.

A stream may be killed at any time, so every file is complete and readable after every turn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from livecc_jax.stream.turn import Answer, SpokenTurn
from livecc_jax.writing import RecordFile


class Sink(Protocol):
    """Takes the results of a stream as they are generated."""

    def write(self, turn: SpokenTurn) -> None:
        """Records a turn."""

    def answer(self, answer: Answer) -> None:
        """Records a question and its answer."""

    def close(self) -> None:
        """Closes the file."""


class _FileSink:
    """A text file that is complete after each write, also after one that finds the disk full.

    Args:
        path: The file to write.
        header: Text at the beginning of the file.

    Raises:
        OutputError: The file cannot be written; every write raises it too.
    """

    def __init__(self, path: str | Path, header: str = "") -> None:
        self._file = RecordFile(path)
        self._write(header)

    def _write(self, text: str) -> None:
        self._file.write(text)

    def answer(self, answer: Answer) -> None:
        """Does nothing: subtitles contain the commentary only."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class JsonLines(_FileSink):
    """One JSON object for each turn and each question.

    A turn, silent ones included, has start, stop, text, tokens and latency_ms; a question has at,
    question, text, tokens and latency_ms.
    """

    def write(self, turn: SpokenTurn) -> None:
        """Appends the turn's line."""
        self._write_line({"start": turn.start, "stop": turn.stop}, turn)

    def answer(self, answer: Answer) -> None:
        """Appends the answer's line."""
        self._write_line({"at": answer.at, "question": answer.question}, answer)

    def _write_line(self, fields: dict[str, float | str], result: SpokenTurn | Answer) -> None:
        line = fields | {
            "text": result.text,
            "tokens": list(result.tokens),
            "latency_ms": round(result.latency * 1000, 1),
        }
        self._write(json.dumps(line, ensure_ascii=False) + "\n")


class WebVtt(_FileSink):
    """A cue for every turn that is not silent (WebVTT, W3C).

    Args:
        path: The file to write.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "WEBVTT\n\n")

    def write(self, turn: SpokenTurn) -> None:
        """Appends a cue, unless the turn is silent."""
        if turn.words:
            # The three characters that have a meaning in WebVTT cue text.
            words = turn.words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            span = f"{timestamp(turn.start, '.')} --> {timestamp(turn.stop, '.')}"
            self._write(f"{span}\n{one_line(words)}\n\n")


class Srt(_FileSink):
    """A numbered subtitle for every turn that is not silent (SubRip).

    Args:
        path: The file to write.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._count = 0

    def write(self, turn: SpokenTurn) -> None:
        """Appends a subtitle, unless the turn is silent."""
        if turn.words:
            self._count += 1
            span = f"{timestamp(turn.start, ',')} --> {timestamp(turn.stop, ',')}"
            self._write(f"{self._count}\n{span}\n{one_line(turn.words)}\n\n")


def one_line(text: str) -> str:
    """Replaces all white space by single spaces: a blank line would end the cue."""
    return " ".join(text.split())


def timestamp(seconds: float, decimal_point: str) -> str:
    """Formats a time as HH:MM:SS.mmm, with the format's own decimal point."""
    ms = round(seconds * 1000)
    clock = f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}"
    return f"{clock}{decimal_point}{ms % 1000:03}"
