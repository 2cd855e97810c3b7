"""Tests recordings that are read as from a network: their pace, and where they end.

FFmpeg reads a file by its path as it reads one by its address, with its length known.
"""

import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.live import LiveOptions, LiveSource
from livecc_jax.media.sources import Timeouts, read_source
from tests.support.media import make_video

OPTIONS = LiveOptions(timeouts=Timeouts(5, 5), retries=0)


def follow(path):
    """Returns the times of a source's frames in ms, its events, and the latest time it waited for."""
    events, waits = [], []

    def opener(source, timeouts):
        return read_source(source, timeouts, lambda stamp, began: waits.append(stamp))

    with LiveSource(f"file://{path}", PixelBudget.parse(16), OPTIONS, events.append, opener) as live:
        times = [round(frame.time_us / 1000) for frame in live.frames()]
    return times, [event.kind for event in events], max(waits)


@pytest.mark.parametrize("later_s", [0, 1000])
def test_a_clock_that_starts_anew_is_not_waited_for(tmp_path, later_s):
    """FFmpeg places the second recording 26 hours after the first where its clock fell back."""
    first = range(1000 * later_s, 1000 * later_s + 1500, 100)
    one = make_video(tmp_path / "one.ts", first, options={"g": "10"}, frame_rate=10)
    two = make_video(tmp_path / "two.ts", range(0, 1500, 100), options={"g": "10"}, frame_rate=10)
    path = tmp_path / "joined.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    assert follow(path) == ([0, 500, 1000, 1500, 2000, 2500], ["opened", "finished"], 2_900_000)


def test_a_recording_that_ends_early_is_not_read_again(tmp_path, caplog):
    """The whole file came, so that another attempt would give no more of it."""
    path = make_video(tmp_path / "a.mkv", range(0, 6000, 100), options={"g": "10"}, frame_rate=10)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    times, events, _ = follow(path)
    assert events == ["opened", "finished"]
    assert 1000 < times[-1] < 4000
    assert "is cut short: it holds" in caplog.text
    assert "of the 6 s that its header promises" in caplog.text


def test_a_raw_recording_is_refused(tmp_path):
    path = make_video(tmp_path / "a.h264", range(0, 800, 100), options={}, frame_rate=10)
    with pytest.raises(MediaError, match=r"is a raw H\.264 stream, which holds no timestamps"):
        follow(path)
