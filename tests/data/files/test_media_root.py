"""What a media root confines: paths through links and dots, playlists, and hosts by their addresses."""

import http.server
import json
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.files import media_root as module
from livecc_jax.data.files.cache import FileCache
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.remote import open_store
from livecc_jax.errors import ConfigError, LiveCCError, MediaError
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.example import ImageFile

ROOT = Path(__file__).parents[3]
FRAME = ROOT / "data/clips/frame.png"
OUTSIDE = "outside the media root"


@pytest.fixture
def tree(tmp_path):
    """A media root with a picture, and one beside it, reached in several ways."""
    (tmp_path / "root/deep").mkdir(parents=True)
    (tmp_path / "root-2").mkdir()
    for folder in ("root", "root/deep", "root-2", "."):
        shutil.copy(FRAME, tmp_path / folder / "a.png")
    (tmp_path / "root/inner.png").symlink_to(tmp_path / "root/deep/a.png")
    (tmp_path / "root/link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "root/way").symlink_to(tmp_path / "root-2")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root/loop")
    (tmp_path / "same").symlink_to(tmp_path / "root")
    return tmp_path


INSIDE = ["root/a.png", "root/deep/../a.png", "root/inner.png", "same/a.png", "root-2/../root/a.png"]
BEYOND = [
    "a.png",
    "root/../a.png",
    "root-2/a.png",
    "root/link.png",
    "root/way/a.png",
    "root/way/../a.png",
]


@pytest.mark.parametrize("root", ["root", "same", "root-2/../root"])
def test_files_lie_in_the_root_with_links_followed(tree, root):
    files = MediaFiles(media_root=MediaRoot.of(str(tree / root)))
    for path in INSIDE:
        assert files.image_size(ImageFile(str(tree / path))) == MediaFiles().image_size(
            ImageFile(str(FRAME))
        )
        assert files.image(str(tree / path)).any()
    for path in BEYOND:
        for read in (
            lambda p: files.image_size(ImageFile(p)),
            files.image,
            lambda p: files.identity(p, is_video=False),
        ):
            with pytest.raises(MediaError, match=OUTSIDE):
                read(str(tree / path))
        assert MediaFiles().image(str(tree / path)).any()  # without a media root, as ever
    with pytest.raises(MediaError):
        files.image(str(tree / "root/loop"))
    stored = VideoInfo(str(tree / "dataset/#train:0"), np.zeros(0, np.int64), 1, 2, 2)
    with pytest.raises(MediaError, match=OUTSIDE):
        next(files.frames(stored, np.zeros(0, np.int64)))


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/x.ts\n",
        "ffconcat version 1.0\nfile '../a.png'\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_a_playlist_may_name_files_elsewhere(tree, text):
    (tree / "root/list.mp4").write_text(text)
    files = MediaFiles(media_root=MediaRoot.of(str(tree / "root")))
    for read in (files.image, lambda p: files.identity(p, is_video=True)):
        with pytest.raises(MediaError, match="is a playlist"):
            read(str(tree / "root/list.mp4"))


PRIVATE = [
    "127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
SPELLINGS = ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "LOCALHOST", "localhost."]


def url(host):
    return f"http://{f'[{host}]' if ':' in host else host}/clip.mp4"


def test_addresses_of_private_hosts_are_refused(tree, monkeypatch):
    root = MediaRoot.of(str(tree / "root"))
    for host in PRIVATE + SPELLINGS:
        for address in (url(host), url(host).replace("http://", "HTTPS://user:pw@")):
            with pytest.raises(MediaError, match=r"not a public address.*--allow-host") as caught:
                root.check(address)
            assert "pw" not in str(caught.value)
    for host in PUBLIC:
        root.check(url(host))
    for address in (
        "file:///etc/passwd",
        "ftp://8.8.8.8/x",
        "memory://x",
        "zip://a::file:///x",
        "x://y",
    ):
        with pytest.raises(MediaError, match=OUTSIDE):
            root.check(address)
    for address in ("http:///x", "http://[::1/x"):
        with pytest.raises(MediaError, match="no host"):
            root.check(address)
    root.check("gs://bucket/clip.mp4")


def resolve_to(monkeypatch, hosts):
    """Makes names resolve to addresses of our choice; the second time, where there are two."""
    asked = []

    def getaddrinfo(host, port, *args, **kwargs):
        host = host.decode() if isinstance(host, bytes) else host
        if host not in hosts:
            raise socket.gaierror("no such name")
        addresses = hosts[host]
        asked.append(host)
        address = addresses[min(asked.count(host), len(addresses)) - 1]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port or 0))]

    module._addresses.cache_clear()
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_names_are_resolved(tree, monkeypatch):
    hosts = {
        "public.example": ["8.8.8.8"],
        "inner.example": ["10.0.0.7"],
        "six.example": ["fe80::1%eth0"],
    }
    resolve_to(monkeypatch, hosts)
    root = MediaRoot.of(str(tree / "root"))
    root.check(url("public.example"))
    for host in ("inner.example", "six.example"):
        with pytest.raises(MediaError, match="not a public address"):
            root.check(url(host))
    with pytest.raises(MediaError, match="cannot be resolved"):
        root.check(url("gone.example"))
    for allowed in ("inner.example", "Inner.Example", "10.0.0.7", "10.0.0.0/8"):
        MediaRoot.of(str(tree / "root"), (allowed,)).check(url("inner.example"))
    with pytest.raises(MediaError, match="not a public address"):
        MediaRoot.of(str(tree / "root"), ("10.1.0.0/16", "other")).check(url("inner.example"))
    module._addresses.cache_clear()


def test_the_root_may_be_a_bucket_and_must_exist(tree):
    root = MediaRoot.of("gs://bucket/clips/")
    root.check("gs://bucket/clips/a.mp4")
    for path in ("gs://bucket/clips/../a.mp4", "gs://bucket/clips-2/a.mp4", "/a.mp4", "s3://bucket/a"):
        with pytest.raises(MediaError, match=OUTSIDE):
            root.check(path)
    with pytest.raises(ConfigError, match="no folder"):
        MediaRoot.of(str(tree / "missing"))
    with pytest.raises(ConfigError, match="give --media-root"):
        MediaRoot.of("", ("10.0.0.0/8",))
    assert MediaRoot.of("") is None


class Handler(http.server.BaseHTTPRequestHandler):
    """Redirects /to/PORT/PATH to that port; serves the picture at every other path."""

    def do_GET(self):
        self.server.paths.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", f"http://{self.path[4:]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = FRAME.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.paths = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_redirects_and_names_that_change_do_not_lead_inside(tree, server, monkeypatch):
    """The connection itself is refused: the second resolution of a name may differ from the first."""
    port = server.server_port
    root = MediaRoot.of(str(tree / "root"), ("localhost",))
    cache = FileCache(tree / "cache", first_wait_s=0.001)
    files = MediaFiles(cache=cache, media_root=root)
    assert files.image(f"http://localhost:{port}/a.png").any()
    with pytest.raises(LiveCCError, match="not a public address"):
        files.image(f"http://localhost:{port}/to/127.0.0.1:{port}/secret.png")
    assert "/secret.png" not in server.paths
    resolve_to(monkeypatch, {"twice.example": ["8.8.8.8", "127.0.0.1"]})
    with pytest.raises(LiveCCError, match="not a public address"):
        files.image(f"http://twice.example:{port}/rebound.png")
    assert "/rebound.png" not in server.paths
    module._addresses.cache_clear()
    assert open_store(f"http://localhost:{port}/a.png")[0] is not open_store("http://x/", root)[0]


def conversation(*paths):
    images = [{"type": "image", "image": str(path)} for path in paths]
    return [
        {"role": "user", "content": [*images, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A rabbit."},
    ]


def test_the_commands_confine_what_annotations_point_to(tree, small_tokenizer, capsys):
    lines = [
        conversation("root/a.png"),
        conversation("root/link.png"),
        conversation("http://127.0.0.1/a"),
    ]
    lines += [conversation("root/a.png", "a.png")]
    path = tree / "qa.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = ["--tokenizer", str(small_tokenizer)]
    root = ["--media-root", str(tree / "root")]

    assert main(["index", str(path), "--out", str(tree / "index"), *tokenizer, *root]) == 0
    rejected = [json.loads(x) for x in (tree / "index/rejected.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejected] == [2, 3, 4]
    assert [OUTSIDE in r["reason"] for r in rejected] == [True, False, True]
    assert "not a public address" in rejected[1]["reason"]

    assert main(["inspect", str(path), *tokenizer, *root]) == 0
    capsys.readouterr()
    assert main(["inspect", str(path), "--example", "1", *tokenizer, *root]) == 2
    assert OUTSIDE in capsys.readouterr().err
    assert main(["inspect", str(path), "--example", "1", *tokenizer]) == 0

    # An index made without a media root: its rows leave out what lies outside one.
    path.write_text("".join(json.dumps(lines[i]) + "\n" for i in (0, 1)))
    assert main(["index", str(path), "--out", str(tree / "all"), *tokenizer]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tree / "all"), "--row", "0", *tokenizer, *root]) == 0
    assert capsys.readouterr().out.count(OUTSIDE) == 1

    out = ["--out", str(tree / "tfds")]
    assert main(["dataset", str(path), *out, *root]) == 0
    assert f"line 2: {tree}/root/link.png: lies {OUTSIDE}" in capsys.readouterr().err
