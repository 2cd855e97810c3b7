"""Tests live sources that stall, break, end or change size, and consumers that lag."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.ingest import is_live, read_turns
from livecc_jax.media.live import LiveOptions, LiveSource, SourceLost, StreamClock
from livecc_jax.media.sources import SourceEnded, SourceStalled, TimedPicture, Timeouts
from tests.support.media import make_video, remux

NARRATION = Path(__file__).parents[2] / "data/clips/bbb_espeak_narration_30s.mp4"
BUDGET = PixelBudget.parse(16)
STAMPS = st.none() | st.integers(-(2**40), 2**40)
QUICK = LiveOptions(timeouts=Timeouts(open=3, read=0.5), retries=1, backoff=0.01)


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """Four seconds of MPEG-TS in two sizes, as bytes."""
    folder = tmp_path_factory.mktemp("streams")
    streams = {}
    for name, size in (("small", (64, 80)), ("large", (96, 128))):
        options = {"preset": "ultrafast", "g": "10"}
        path = make_video(
            folder / f"{name}.ts", range(0, 4000, 100), options=options, size=size, frame_rate=10
        )
        streams[name] = path.read_bytes()
    return streams


@pytest.fixture
def server(streams):
    """Serves the n-th item of `script[path]` for the n-th request, and its last one from then on."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            steps = self.server.script[self.path]
            step = steps.pop(0) if len(steps) > 1 else steps[0]
            if step is None:
                return self.send_error(404)
            self.send_response(200)
            if "stall" not in step:
                self.send_header("Content-Length", sum(map(len, step)))
            self.end_headers()
            for part in step:
                if part == "stall":
                    released.wait(20)
                else:
                    self.wfile.write(part)

        def log_message(self, *_):
            pass

        def handle(self):
            with contextlib.suppress(ConnectionError):  # the client gave up, as it should
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.script = {}
        http.address = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield http
        released.set()
        http.shutdown()


def test_a_source_that_fails_in_every_way(server, streams):
    """It stalls, is garbage, is missing, works again, ends and is gone; another one is not affected."""
    small = streams["small"]
    incomplete = small[: len(small) * 3 // 4 // 188 * 188]
    garbage = np.random.default_rng(0).bytes(50_000)
    server.script = {
        "/bad": [[incomplete, "stall"], [garbage], None, [small], None],
        "/good": [[small, "stall"]],
    }
    events, frames = [], []
    options = LiveOptions(timeouts=QUICK.timeouts, retries=3, backoff=0.01)
    slow = LiveOptions(timeouts=Timeouts(5, 5), retries=0)
    with (
        LiveSource(f"{server.address}/good", BUDGET, slow) as good,
        LiveSource(f"{server.address}/bad", BUDGET, options, events.append) as bad,
    ):
        with pytest.raises(SourceLost, match=r"/bad: .*3 attempts to open it again failed"):
            frames += bad.frames()
        good_frames = good.frames()
        unaffected = [next(good_frames) for _ in range(7)]
    assert [e.kind for e in events] == [
        "opened", "stalled", "broken", "broken", "opened", "ended", "broken", "broken", "lost"
    ]  # fmt: skip
    assert [e.retry_in for e in events if e.retry_in] == [0.01, 0.02, 0.04, 0.01, 0.02, 0.04]
    assert bad.counts.failures == 7
    assert bad.counts.frames == len(frames) >= 10
    times = [f.time_us for f in frames]
    assert times == sorted(set(times))
    assert all(f.captured_at > 1.7e9 for f in frames)
    assert {f.picture.shape for f in frames} == {(*BUDGET.size(64, 80, 2), 3)}
    # Times follow the stream's own clock, not the arrival of the bytes.
    assert [round(f.time_us, -5) for f in unaffected] == [500_000 * i for i in range(7)]


def test_pictures_that_change_size(server, streams):
    server.script = {"/grows": [[streams["small"]], [streams["large"]], None]}
    events = []
    with LiveSource(f"{server.address}/grows", BUDGET, QUICK, events.append) as live:
        frames = []
        with pytest.raises(SourceLost):
            frames += live.frames()
    assert "resized" in [e.kind for e in events]
    assert len(frames) >= 14
    assert {f.picture.shape for f in frames} == {(*BUDGET.size(64, 80, 2), 3)}


def test_a_source_that_never_came(server):
    """It raises an error at once, unless `retry_first` is set."""
    server.script = {"/none": [None], "/hangs": [["stall"]]}
    with pytest.raises(MediaError, match="/none: cannot be read"):
        next(read_turns(f"{server.address}/none", BUDGET, options=QUICK))
    with pytest.raises(SourceLost, match="/hangs: nothing came for 0"):
        next(read_turns(f"{server.address}/hangs", BUDGET, options=LiveOptions(Timeouts(0.2, 0.2))))
    with pytest.raises(SourceLost, match=r"99: the camera cannot be opened$"):
        next(read_turns("99", BUDGET))
    options = LiveOptions(timeouts=QUICK.timeouts, retries=3, backoff=0.01, retry_first=True)
    with LiveSource(f"{server.address}/none", BUDGET, options) as live:
        with pytest.raises(SourceLost, match="3 attempts to open it again failed"):
            next(live.frames())
        assert live.counts.failures == 4


def test_a_recording_over_http_keeps_its_pace(server, streams, tmp_path):
    """Its length is known, so its end is final, and it is read in real time."""
    (tmp_path / "small.ts").write_bytes(streams["small"])
    with av.open(str(tmp_path / "small.ts")) as source:
        remux(source, tmp_path / "small.mp4", {"movflags": "faststart"})
    server.script = {"/film.mp4": [[(tmp_path / "small.mp4").read_bytes()]]}
    waits, events = [], []
    turns = read_turns(
        f"{server.address}/film.mp4",
        BUDGET,
        options=QUICK,
        on_event=events.append,
        keep_pace=lambda stamp, began: waits.append(stamp),
    )
    assert [len(t.frames) for t in turns] == [6, 2]
    assert waits == list(range(0, 4_000_000, 100_000))
    assert [e.kind for e in events] == ["opened", "finished"]


def test_closing_does_not_wait_for_a_source_that_hangs(server, streams):
    server.script = {"/stalls": [[streams["small"], "stall"]]}
    live = LiveSource(f"{server.address}/stalls", BUDGET, QUICK)
    assert next(live.frames()).time_us == 0
    began = time.monotonic()
    live.close(wait=0.1)
    assert len(list(live.frames())) <= 8
    assert time.monotonic() - began < 0.4
    assert live.join(10)


def pictures(stamps, size=(40, 60)):
    """Returns an opener whose pictures hold their number, and which then ends for good."""

    def opener(source, timeouts):
        for number, stamp in enumerate(stamps):
            yield TimedPicture(stamp, lambda number=number: np.full((*size, 3), number, np.uint8))
        raise SourceEnded(f"{source}: ended", complete=True)

    return opener


def test_a_slow_consumer_gets_the_latest():
    """Twenty frames arrive before one is taken: the last four remain, and one event says so."""
    events = []
    options = LiveOptions(queue=4)
    opener = pictures(range(0, 10_000_000, 500_000))
    live = LiveSource("camera", BUDGET, options, events.append, opener)
    assert live.join(10)
    assert [int(f.picture[0, 0, 0]) for f in live.frames()] == [16, 17, 18, 19]
    assert (live.counts.pictures, live.counts.frames, live.counts.dropped) == (20, 20, 16)
    assert [e.kind for e in events] == ["opened", "dropped", "finished"]


def test_two_frames_a_second_are_sampled():
    """Every fifth of ten pictures a second. A gap is not filled with repeated frames."""
    stamps = [*range(0, 2_000_000, 100_000), *range(4_000_000, 5_000_000, 100_000)]
    live = LiveSource("camera", BUDGET, opener=pictures(stamps))
    assert [f.time_us for f in live.frames()] == [
        0, 500_000, 1_000_000, 1_500_000, 4_000_000, 4_500_000
    ]  # fmt: skip


def test_an_unexpected_error_reaches_the_consumer():
    def opener(source, timeouts):
        yield TimedPicture(0, lambda: np.zeros((40, 60, 3), np.uint8))
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(LiveSource("camera", BUDGET, opener=opener).frames())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(STAMPS, st.integers(0, 10**7)), max_size=30))
def test_time_never_runs_back(pictures):
    """For any timestamps, times ascend, and they are never far ahead of the arrival."""
    clock, arrived, previous = StreamClock(), 5.0, -1
    for stamp, later in pictures:
        arrived += later / 1e6
        time_us = clock.time_of(stamp, arrived)
        assert previous < time_us <= max((arrived - 5.0) * 1e6 + 1, previous) + 10_000_000
        previous = time_us


def test_a_file_in_real_time():
    """It gives the same frames as a file read fast, each when it is due."""
    waits = []
    fast = list(read_turns(str(NARRATION), BUDGET, start=2.0, end=7.6))
    own = list(
        read_turns(
            str(NARRATION),
            BUDGET,
            start=2.0,
            end=7.6,
            pace="own",
            keep_pace=lambda stamp, began: waits.append(stamp),
        )
    )
    assert waits == list(range(0, 6_000_000, 500_000))
    assert [len(t.frames) for t in own] == [6, 2, 2, 2]
    for one, other in zip(own, fast, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.times_us, other.times_us)
        assert one.captured_at.shape == (len(one.frames),)
        assert other.captured_at is None


def test_options_that_a_live_source_refuses():
    assert is_live("0")
    assert is_live("rtsp://host/stream")
    assert not is_live("clip.mp4")
    with pytest.raises(ConfigError, match="needs a fixed pixel budget"):
        read_turns("0", PixelBudget.parse("reference"))
    with pytest.raises(ConfigError, match="no start and end"):
        read_turns("0", BUDGET, start=1.0)
    assert issubclass(SourceStalled, MediaError)
