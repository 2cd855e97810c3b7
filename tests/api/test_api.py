"""The public API: what it says equals what the commands say, whichever way the frames come in."""

import json
from pathlib import Path

import numpy as np
import pytest

import livecc_jax
from livecc_jax.cli import main
from livecc_jax.media.video import probe, read_frames

CLIP = Path(__file__).parents[2] / "data/clips/bbb_oddsize_317x179_derived.mp4"
END, LIMIT = 5, 5
DECODING = {"max_new_tokens": LIMIT, "repetition_penalty": 1.2}
OPTIONS = ["--end", END, "--max-new-tokens", LIMIT, "--repetition-penalty", 1.2]


@pytest.fixture(scope="module")
def model(checkpoint):
    return livecc_jax.open_model(checkpoint)


@pytest.fixture(scope="module")
def commentary(model):
    """The turns of the clip, as `comment` returns them."""
    return list(livecc_jax.comment(model, CLIP, title="A film", end=END, **DECODING))


def spoken(turns):
    return [(turn.start, turn.stop, turn.tokens) for turn in turns]


def read_turns(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["start"], line["stop"], tuple(line["tokens"])) for line in lines]


def run(*argv):
    assert main([str(a) for a in argv]) == 0


def test_words_equal_those_of_livecc_stream(checkpoint, commentary, tmp_path):
    run("stream", checkpoint, CLIP, "--title", "A film", *OPTIONS, "--jsonl", tmp_path / "a.jsonl")
    assert spoken(commentary) == read_turns(tmp_path / "a.jsonl")
    assert [turn.start for turn in commentary] == [0, 3, 4]
    assert len({turn.tokens for turn in commentary}) == 3  # the frames matter


def test_files_and_questions(model, commentary, tmp_path):
    out = {kind: tmp_path / f"a.{kind}" for kind in ("jsonl", "vtt", "srt")}
    results = livecc_jax.comment(
        model, str(CLIP), title="A film", end=END, questions=[(3.5, "What is it?")], **out, **DECODING
    )
    results = list(results)
    assert [type(x).__name__ for x in results[:3]] == ["SpokenTurn", "SpokenTurn", "Answer"]
    assert results[2].at == 4.0
    assert spoken(results[:2]) == spoken(commentary[:2])
    assert len(out["jsonl"].read_text().splitlines()) == len(results)
    assert out["vtt"].read_text().startswith("WEBVTT")
    assert out["srt"].read_text().startswith("1\n00:00:00,000 --> 00:00:03,000")


@pytest.mark.parametrize("cache", ["full", "rolling"])
def test_frames_that_are_pushed_with_their_times(model, commentary, cache):
    """All 24 frames a second, in uneven portions: the session samples them as a file is sampled."""
    info = probe(CLIP)
    until = int(np.searchsorted(info.frame_times_us, END * 1_000_000, "right"))
    frames = np.stack(list(read_frames(info, np.arange(until))))
    times = info.frame_times_us[:until] / 1e6
    session = livecc_jax.open_session(model, title="A film", cache=cache, **DECODING)
    turns, start = [], 0
    for size in [1, 50, 3, 90, *[17] * until]:
        turns += session.push(frames[start : start + size], times[start : start + size])
        start += size
        if start >= until:
            break
    assert spoken(turns + session.finish()) == spoken(commentary)


def test_a_session_forks_and_answers(model):
    frames = np.random.default_rng(0).integers(0, 256, (10, 60, 90, 3), np.uint8)
    session = livecc_jax.open_session(model, cache="full", **DECODING)
    assert session.push(frames[0]) == session.push(frames[1:5]) == []
    assert len(session.push(frames[5:9])) == 2  # the last frame waits
    fork = session.fork()
    answer = session.ask("What?", 4)
    assert (answer.at, answer.question) == (4.0, "What?")
    assert len(answer.tokens) <= 4
    (turn,) = fork.push(frames[9])
    again = livecc_jax.open_session(model, cache="full", **DECODING)
    assert spoken(again.push(frames))[-1] == spoken([turn])[0]


def test_what_cannot_be_pushed(model):
    frame = np.zeros((60, 90, 3), np.uint8)
    session = livecc_jax.open_session(model)
    for frames, times, message in (
        (frame.astype(np.float32), None, "uint8"),
        (frame[..., 0], None, "uint8"),
        (frame[:0], None, "uint8"),
        (frame, [0.0, 1.0], "1 frames but 2 times"),
        (frame, np.nan, "must be a number"),
    ):
        with pytest.raises(livecc_jax.MediaError, match=message):
            session.push(frames, times)
    session = livecc_jax.open_session(model)
    session.push(frame, 3.0)
    with pytest.raises(livecc_jax.MediaError, match="run backwards"):
        session.push(frame, 2.0)
    with pytest.raises(livecc_jax.MediaError, match="changed size"):
        session.push(frame[:50], 4.0)
    with pytest.raises(livecc_jax.LiveCCError, match="needs frames before it"):
        session.ask("What?")
    with pytest.raises(livecc_jax.ConfigError, match="fixed pixel budget"):
        livecc_jax.open_session(model, pixel_budget="reference")


def test_many_sources_at_once(model, commentary, tmp_path):
    sources = {"left": CLIP, "right": CLIP}
    alone = list(livecc_jax.comment(model, CLIP, title="A film", **DECODING))
    assert spoken(alone[:3]) == spoken(commentary)
    words = {"left": [], "right": []}
    with livecc_jax.watch(
        model, sources, title="A film", cache="full", batch=1, out=tmp_path, **DECODING
    ) as streams:
        for name, turn in streams:
            words[name].append(turn)
        assert streams.wait()
        assert not streams.failures
        assert {s.state for s in streams.stats().values()} == {"finished"}
    for name in sources:
        assert spoken(words[name]) == spoken(alone) == read_turns(tmp_path / f"{name}.jsonl")


def test_streams_that_nobody_reads_end(model, tmp_path):
    with livecc_jax.watch(model, [CLIP], cache="full", out=tmp_path, **DECODING) as streams:
        assert streams.wait(60)
        assert streams.names == (CLIP.stem,)
    assert read_turns(tmp_path / f"{CLIP.stem}.jsonl")


def test_a_source_that_fails_is_named(model, tmp_path):
    with livecc_jax.watch(model, {"gone": tmp_path / "gone.mp4"}, cache="full") as streams:
        assert list(streams) == []
    assert "gone.mp4" in str(streams.failures["gone"])


def test_an_engine(model, commentary):
    info = probe(CLIP)
    times = info.frame_times_us[0] + 500_000 * np.arange(6)
    frames = np.stack(list(read_frames(info, np.searchsorted(info.frame_times_us, times))))
    size = model.budget().size(*frames.shape[1:3], 6)
    frames = livecc_jax.media.pixels.resize(frames, size)
    engine = livecc_jax.open_engine(model, 2, cache="full", query="A film", **DECODING)
    streams = [engine.open("A film", model.stream_options(**DECODING)) for _ in range(2)]
    for stream in streams:
        stream.push(frames)
    results = engine.step()
    assert {id(stream) for stream, _ in results} == {*map(id, streams)}
    assert spoken(turn for _, turn in results) == spoken(commentary[:1]) * 2


def test_answers_equal_those_of_livecc_ask(model, checkpoint, tmp_path):
    out = tmp_path / "a.jsonl"
    run("ask", checkpoint, CLIP, "What?", "Why?", "--end", 4, "--max-new-tokens", 6, "--jsonl", out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    chat = livecc_jax.open_chat(model, CLIP, end=4)
    answers = [chat.ask(question, 6) for question in ("What?", "Why?")]
    assert [list(a.tokens) for a in answers] == [line["tokens"] for line in lines]
    first = livecc_jax.ask(model, CLIP, "What?", end=4, max_new_tokens=6)
    assert (first.tokens, first.text) == (answers[0].tokens, answers[0].text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": -1}, "start must be"),
        ({"start": 3, "end": 2}, "end 2 is not after start 3"),
        ({"temprature": 1}, "no decoding option 'temprature'"),
        ({"temperature": -1}, "temperature must not be negative"),
        ({"cache": "round"}, "'round' is not one of full, rolling"),
        ({"cache_precision": "int8"}, "needs cache='rolling'"),
        ({"pixel_budget": 0}, "pixel budget"),
        ({"positions": "polar"}, "'polar' is not one of"),
    ],
)
def test_options_that_cannot_be(checkpoint, changes, message):
    model = livecc_jax.open_model(checkpoint)
    with pytest.raises(livecc_jax.ConfigError, match=message):
        livecc_jax.comment(model, CLIP, **changes)
    assert model._loaded is None  # noticed before the weights are loaded


def test_other_mistakes(model, checkpoint, tmp_path):
    with pytest.raises(livecc_jax.CheckpointError, match="no such checkpoint"):
        livecc_jax.open_model(tmp_path / "none")
    with pytest.raises(livecc_jax.ConfigError, match="dtype 'int4'"):
        livecc_jax.open_model(checkpoint, dtype="int4")
    with pytest.raises(livecc_jax.MediaError, match=r"none\.mp4"):
        livecc_jax.comment(livecc_jax.open_model(checkpoint), tmp_path / "none.mp4")
    with pytest.raises(livecc_jax.ConfigError, match="must say something"):
        livecc_jax.ask(model, CLIP, " ")
    with pytest.raises(livecc_jax.ConfigError, match="no source"):
        livecc_jax.watch(model, [])
    with pytest.raises(livecc_jax.ConfigError, match="2 queries for 1 sources"):
        livecc_jax.watch(model, [CLIP], query=["a", "b"])
    with pytest.raises(livecc_jax.MediaError, match="cannot be the name"):
        livecc_jax.watch(model, {"../up": CLIP}, out=tmp_path, cache="full")
