"""Where commentary goes: JSON lines, WebVTT and SRT, each written as the turn ends.

A stream may be killed at any second, so every file is complete and readable after every turn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, TextIO

from livecc_jax.errors import DataError
from livecc_jax.stream.session import Answer, SpokenTurn


class Sink(Protocol):
    """Takes turns as they are spoken."""

    def write(self, turn: SpokenTurn) -> None:
        """Record one turn."""

    def answer(self, answer: Answer) -> None:
        """Record a question and its answer."""

    def close(self) -> None:
        """Release the file."""


class _FileSink:
    def __init__(self, path: str | Path, header: str = "") -> None:
        try:
            self._file: TextIO = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from error
        self._write(header)

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def answer(self, answer: Answer) -> None:
        """Subtitles show commentary alone."""

    def close(self) -> None:
        self._file.close()


class JsonLines(_FileSink):
    """One object a turn, silent ones included: start, stop, text, tokens, latency_ms; and one for each
    question: at, question, text, tokens, latency_ms.
    """

    def write(self, turn: SpokenTurn) -> None:
        """Append the turn's line."""
        self._line({"start": turn.start, "stop": turn.stop}, turn)

    def answer(self, answer: Answer) -> None:
        """Append the answer's line."""
        self._line({"at": answer.at, "question": answer.question}, answer)

    def _line(self, about: dict[str, float | str], said: SpokenTurn | Answer) -> None:
        line = about | {
            "text": said.text,
            "tokens": list(said.tokens),
            "latency_ms": round(said.latency * 1000, 1),
        }
        self._write(json.dumps(line, ensure_ascii=False) + "\n")


class WebVtt(_FileSink):
    """A cue for every turn that says something (WebVTT, W3C)."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "WEBVTT\n\n")

    def write(self, turn: SpokenTurn) -> None:
        """Append a cue, if something was said."""
        if turn.words:
            # The three characters that WebVTT cue text gives a meaning to.
            words = turn.words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            span = f"{timestamp(turn.start, '.')} --> {timestamp(turn.stop, '.')}"
            self._write(f"{span}\n{one_line(words)}\n\n")


class Srt(_FileSink):
    """A numbered subtitle for every turn that says something."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._count = 0

    def write(self, turn: SpokenTurn) -> None:
        """Append a subtitle, if something was said."""
        if turn.words:
            self._count += 1
            span = f"{timestamp(turn.start, ',')} --> {timestamp(turn.stop, ',')}"
            self._write(f"{self._count}\n{span}\n{one_line(turn.words)}\n\n")


def one_line(text: str) -> str:
    """A blank line would end the cue, so all white space becomes single spaces."""
    return " ".join(text.split())


def timestamp(seconds: float, point: str) -> str:
    """HH:MM:SS.mmm, with the decimal point that the format wants."""
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
