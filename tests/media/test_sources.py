"""Tests what a source's name means, and how a server that stalls is told."""

import contextlib
import http.server
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import sample_media
from livecc_jax.media.sources import (
    SourceBroken,
    SourceEnded,
    SourceStalled,
    Timeouts,
    camera_number,
    is_live,
    read_source,
)
from livecc_jax.media.video import probe, read_frames
from livecc_jax.serving.names import source_names
from tests.support.media import make_video

CLIP = Path(__file__).parents[2] / "data/clips/bikes.mp4"


def test_a_file_that_exists_is_no_camera_and_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (camera_number("0"), camera_number("camera:3"), camera_number("Camera:3")) == (0, 3, 3)
    for name in ("²", "٣", "1.5", "-1", "camera:", "camera:x", "0 "):
        assert camera_number(name) is None
        assert not is_live(name)
    for address in ("HTTP://host/a.mp4", "rtsp://host/a"):
        assert is_live(address)
    assert source_names(["0", "camera:1"]) == ["camera-0", "camera-1"]
    video = make_video(tmp_path / "video.mp4", range(0, 3000, 100))
    for name in ("2024", "²", "0", "camera:1", "goal-12:30.mp4", "http:a.mp4", "file:b.mp4"):
        shutil.copy(video, name)
        assert not is_live(name)
        info = probe(name)
        assert read_frames(info, [29]).shape == (1, info.height, info.width, 3)
        assert sample_media(name, PixelBudget.parse("64")).kind == "video"
    assert source_names(["0", "2024"]) == ["0", "2024"]


@contextlib.contextmanager
def server(answer):
    """Yields the port of a server that calls `answer` with each connection, in a thread of its own."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listening.accept()[0])
                    threading.Thread(target=answer, args=(connections[-1],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        for connection in connections:
            connection.close()


def never(connection):
    """Answers nothing."""


def half_then_slowly(connection):
    """Sends half a video, then a byte at a time."""
    data = CLIP.read_bytes()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nContent-Type: video/mp4\r\n\r\n"
    with contextlib.suppress(OSError):
        connection.recv(4096)
        connection.sendall(head.encode() + data[: len(data) // 2])
        for byte in data[len(data) // 2 :]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)


def slowly(connection):
    """Sends a video a byte at a time."""
    with contextlib.suppress(OSError):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n")
        for byte in CLIP.read_bytes():
            connection.sendall(bytes([byte]))
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [("http", never), ("rtsp", never), ("http", slowly), ("http", half_then_slowly)],
)
def test_a_server_that_sends_no_picture_in_time_is_called_stalled(scheme, answer):
    with server(answer) as port, pytest.raises(SourceStalled, match=r"came for 0\.4 s"):
        list(read_source(f"{scheme}://127.0.0.1:{port}/a.mp4", Timeouts(0.4, 0.3)))


def test_a_server_that_sends_no_video_is_called_broken():
    def nonsense(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"nonsense " * 1000)

    with server(nonsense) as port, pytest.raises(SourceBroken):
        list(read_source(f"http://127.0.0.1:{port}/a.mp4", Timeouts(5.0, 5.0)))


def test_a_protocol_in_capitals(tmp_path):
    make_video(tmp_path / "a.mp4", range(0, 2000, 100))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        address, number = f"HTTP://127.0.0.1:{files.server_port}/a.mp4", 0
        with contextlib.suppress(SourceEnded):
            for _ in read_source(address, Timeouts(), lambda *_: None):
                number += 1
        files.shutdown()
    assert number == 20
