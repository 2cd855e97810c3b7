"""Commentary on one source: questions in time, files that are complete, however the stream ends."""

import json

import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media.ingest import TurnFrames
from livecc_jax.serving.commentary import comment
from livecc_jax.serving.sinks import JsonLines, Srt, WebVtt
from livecc_jax.stream.session import Session
from livecc_jax.stream.turn import SpokenTurn
from livecc_jax.timeline.turns import turn_span
from tests.support.streaming import QUERY, frames, model, options


def test_questions_are_asked_in_time(tmp_path, caplog):
    """Answers go between the turns, into the JSON lines and not into the subtitles."""
    turns = [TurnFrames(frames(i)) for i in range(3)]
    sinks = [JsonLines(tmp_path / "out.jsonl"), Srt(tmp_path / "out.srt")]
    questions = [(3.5, "d?"), (0.0, "a?"), (99.0, "c?")]
    stream = Session(model(), options("mrope"), QUERY)
    results = list(comment(stream, turns, sinks, questions))
    assert [getattr(s, "question", "") for s in results] == ["", "a?", "", "d?", ""]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == [list(s.tokens) for s in results]
    assert [(line["at"], line["question"]) for line in lines if "at" in line] == [(3, "a?"), (4, "d?")]
    assert (tmp_path / "out.srt").read_text().count(" --> ") == sum(
        bool(s.words) for s in results if not hasattr(s, "question")
    )
    assert "ended before 99 s: 'c?' was not asked" in caplog.text


class FailingSink:
    """A sink that cannot close."""

    def write(self, turn):
        pass

    def close(self):
        raise OSError("no space left")


class FakeSession:
    """A session that counts its turns instead of decoding."""

    turns, prefetched = 0, None

    def push(self, frames, following=None):
        assert self.prefetched is None or frames is self.prefetched
        self.prefetched = following
        start, stop = turn_span(self.turns)
        self.turns += 1
        return SpokenTurn(start / 1e6, stop / 1e6, f"turn {self.turns} ...", (7,), False, 0.02)


def check_closed(sinks):
    for sink in sinks:
        with pytest.raises(ValueError, match="closed file"):
            sink.write(SpokenTurn(0.0, 1.0, "late ...", (7,), False, 0.0))


@pytest.mark.parametrize("prefetch", [False, True])
def test_sinks_are_complete_and_closed_however_a_stream_ends(tmp_path, prefetch):
    """Each turn is in each file when it is yielded; a broken source or an early exit closes them."""

    def sinks(name):
        files = [kind(tmp_path / f"{name}.{i}") for i, kind in enumerate((JsonLines, WebVtt, Srt))]
        return files, lambda: [(tmp_path / f"{name}.{i}").read_text("utf-8") for i in range(3)]

    def broken():
        yield from [TurnFrames(frames(0)), TurnFrames(frames(1))]
        raise MediaError("the camera is gone")

    opened, texts = sinks("broken")
    stream = comment(FakeSession(), broken(), [FailingSink(), *opened], prefetch=prefetch)
    for n in (1, 2):
        next(stream)
        lines, vtt, srt = texts()
        assert [json.loads(x)["text"] for x in lines.splitlines()][-1] == f"turn {n} ..."
        assert {*json.loads(lines.splitlines()[0])} == {"start", "stop", "text", "tokens", "latency_ms"}
        assert vtt.endswith(f"\nturn {n}\n\n")
        assert srt.endswith(f"\nturn {n}\n\n")
    with pytest.raises((MediaError, OSError)):
        next(stream)
    check_closed(opened)

    opened, _ = sinks("left")
    session = FakeSession()
    stream = comment(session, (TurnFrames(frames(i)) for i in range(9)), opened, prefetch=prefetch)
    next(stream)
    assert (session.prefetched is not None) == prefetch
    stream.close()
    check_closed(opened)
    few = (TurnFrames(frames(i)) for i in range(4))
    assert len([*comment(FakeSession(), few, [], prefetch=prefetch)]) == 4
