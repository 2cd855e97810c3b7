"""Tests which video track is shown where there are covers, thumbnails and previews too."""

import http.server
import threading
from functools import partial

import av
import numpy as np
import pytest
from av.stream import Disposition

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import sample_media
from livecc_jax.media.ingest import read_turns
from livecc_jax.media.rules import MediaRules
from livecc_jax.media.video import probe, read_frames

SIZES = {"large": (112, 140), "small": (56, 84)}  # height, width
NONE, DEFAULT = Disposition(0), Disposition.default
COVER, THUMBNAILS = Disposition.attached_pic, Disposition.timed_thumbnails


def write_tracks(path, *tracks):
    """Writes video tracks of plain grey, 10 frames a second: 50 in the first, 100 in the second, ...

    Args:
        path: File to write.
        tracks: Name of the size, number of frames and disposition of each. A cover is a JPEG.
    """
    with av.open(str(path), "w") as container:
        packets = []
        for number, (size, count, disposition) in enumerate(tracks):
            is_cover = disposition & (COVER | THUMBNAILS)
            stream = container.add_stream("mjpeg" if is_cover else "mpeg4", rate=10)
            stream.height, stream.width = SIZES[size]
            stream.pix_fmt = "yuvj420p" if is_cover else "yuv420p"
            stream.disposition = disposition
            for i in range(count):
                picture = np.full((*SIZES[size], 3), 50 * (number + 1), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture).reformat(format=stream.pix_fmt)
                frame.pts = i
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.pts * packet.time_base):
            container.mux(packet)
    return path


def grey_track(frames):
    """Returns the number of the track that frames are of."""
    numbers = (frames.mean((1, 2, 3)) / 50).round().astype(int) - 1
    assert len(set(numbers)) == 1
    return numbers[0]


CASES = {
    "cover first": ("mp4", [("large", 1, COVER), ("small", 30, DEFAULT)], 1),
    "cover last": ("mp4", [("small", 30, DEFAULT), ("large", 1, COVER)], 0),
    "thumbnails": ("mp4", [("large", 1, COVER | THUMBNAILS), ("small", 30, NONE)], 1),
    "small preview": ("mkv", [("small", 30, NONE), ("large", 30, DEFAULT)], 1),
    "default though small": ("mkv", [("large", 30, NONE), ("small", 30, DEFAULT)], 1),
    "large of two defaults": ("mov", [("small", 30, DEFAULT), ("large", 30, DEFAULT)], 1),
    "no flags": ("ts", [("small", 30, NONE), ("large", 30, NONE)], 1),
    "single picture": ("mov", [("large", 1, DEFAULT), ("small", 30, DEFAULT)], 1),
    "single picture without count": ("mkv", [("large", 1, DEFAULT), ("small", 60, NONE)], 1),
    "short": ("mov", [("large", 5, DEFAULT), ("small", 30, DEFAULT)], 1),
    "alike": ("mov", [("large", 30, DEFAULT), ("large", 31, DEFAULT)], 0),
    "two in an AVI": ("avi", [("small", 30, NONE), ("large", 30, NONE)], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_main_track_is_shown(tmp_path, name):
    """By disposition and default flag, then by length and size; --video-track N takes another."""
    suffix, tracks, main = CASES[name]
    path = write_tracks(tmp_path / f"tracks.{suffix}", *tracks)
    with av.open(str(path)) as container:  # muxers may put covers last
        streams = container.streams.video
        pictures = [next(container.decode(streams[0])).to_ndarray(format="rgb24")]
        main = main if len(tracks) != len(streams) or grey_track(np.stack(pictures)) == 0 else 1 - main
    info = probe(path)
    assert (info.height, info.width) == SIZES[tracks[CASES[name][2]][0]]
    assert len(info.pts_us) == tracks[CASES[name][2]][1]
    assert grey_track(read_frames(info, [0, len(info.pts_us) - 1])) == CASES[name][2]
    assert probe(path, MediaRules(track=main)).pts_us.tolist() == info.pts_us.tolist()


def test_a_track_that_is_asked_for(tmp_path):
    path = write_tracks(tmp_path / "two.mkv", ("small", 30, NONE), ("large", 25, DEFAULT))
    budget, sizes = PixelBudget.parse(64), {}
    for track in (0, 1):
        rules = MediaRules(track=track)
        frames = sample_media(path, budget, rules=rules).frames
        turns = [turn.frames for turn in read_turns(str(path), budget, rules=rules)]
        assert grey_track(frames) == grey_track(np.concatenate(turns)) == track
        sizes[track] = frames.shape[1:3]
    assert sizes[0] != sizes[1]
    with pytest.raises(MediaError, match=r"two\.mkv: has no video track 2, only 0 to 1"):
        probe(path, MediaRules(track=2))
    with pytest.raises(ConfigError, match="from 0 on, not -1"):
        MediaRules(track=-1)


def test_a_cover_alone_is_no_video(tmp_path):
    """As in a song with a cover, which has no other picture."""
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = COVER
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
        packets = [*cover.encode(picture.reformat(format="yuvj420p")), *cover.encode()]
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux([*sound.encode(frame), *sound.encode(), *packets])
    with pytest.raises(MediaError, match=r"song\.mp4: holds no video, only an attached picture"):
        probe(path)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize("name", ["cover first", "small preview", "single picture"])
def test_over_http_the_same_track_is_shown(tmp_path, name):
    """The stream ends with the video, after six frames in 3 s."""
    suffix, tracks, main = CASES[name]
    write_tracks(tmp_path / f"tracks.{suffix}", *tracks)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/tracks.{suffix}"
        turns = read_turns(address, PixelBudget.parse(64), keep_pace=lambda stamp, began: None)
        frames = np.concatenate([turn.frames for turn in turns])
        server.shutdown()
    assert len(frames) == 6
    assert grey_track(frames) == main
