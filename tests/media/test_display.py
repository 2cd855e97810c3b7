"""Tests the picture on the screen: every display matrix, and pixels that are not square."""

import contextlib
import http.server
import io
import itertools
import struct
import threading
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from PIL import Image

from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.display import matrix_orientation
from livecc_jax.media.ingest import read_turns
from livecc_jax.media.rules import EARLIER, MediaRules
from livecc_jax.media.sources import SourceBroken, Timeouts, read_source
from livecc_jax.media.video import probe, read_frames
from tests.support.media import make_video

STORED = MediaRules(aspect="stored")
AXES = [(1, 0), (-1, 0), (0, 1), (0, -1)]
ORIENTATIONS = [(r, d) for r, d in itertools.product(AXES, AXES) if r[0] * d[0] + r[1] * d[1] == 0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A video of three frames, 80x64, with square pixels and no matrix."""
    return make_video(tmp_path_factory.mktemp("plain") / "plain.mp4", [0, 100, 200])


def with_matrix(source, path, right, down):
    """Copies an MP4 with another display matrix in its track header."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert content[at : at + 36] == identity
    numbers = [round(x * (1 << 16)) for x in (*right, 0, *down, 0, 0, 0)]
    content[at : at + 36] = struct.pack(">9i", *numbers, 1 << 30)
    path.write_bytes(content)
    return path


def placed(picture, right, down):
    """Puts every pixel where the matrix's definition says, one by one."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    on_x, on_y = x * right[0] + y * down[0], x * right[1] + y * down[1]
    on_x, on_y = on_x - on_x.min(), on_y - on_y.min()
    shown = np.zeros((on_y.max() + 1, on_x.max() + 1, 3), np.uint8)
    shown[on_y, on_x] = picture
    return shown


@pytest.mark.parametrize(("right", "down"), ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_picture_lies_where_its_matrix_says(plain, tmp_path, right, down, suffix):
    assert len(ORIENTATIONS) == 8
    info = probe(with_matrix(plain, tmp_path / f"turned.{suffix}", right, down))
    stored, shown = read_frames(probe(plain), [0, 2]), read_frames(info, [0, 2])
    assert (info.height, info.width) == shown.shape[1:3]
    for ours, picture in zip(shown, stored, strict=True):
        np.testing.assert_array_equal(ours, placed(picture, right, down))


def test_a_matrix_in_the_stream_itself(plain, tmp_path):
    """H.264 may say in the stream that it is mirrored, in containers that cannot say so."""
    path = tmp_path / "mirrored.ts"
    with av.open(str(plain)) as source, av.open(str(path), "w") as copy:
        stream = source.streams.video[0]
        mirror = BitStreamFilterContext(
            "h264_mp4toannexb,h264_metadata=display_orientation=insert:flip=horizontal", stream
        )
        out = copy.add_stream_from_template(stream)
        for packet in source.demux(stream):
            for filtered in mirror.filter(packet if packet.dts is not None else None):
                filtered.stream = out
                copy.mux(filtered)
    expected = read_frames(probe(plain), range(3))[:, :, ::-1]
    np.testing.assert_array_equal(read_frames(probe(path), range(3)), expected)


@pytest.mark.parametrize("degrees", [30, -45, 100])
def test_a_picture_that_is_turned_by_any_angle(plain, tmp_path, degrees):
    """It is turned about its centre, on black, like players do and like Pillow does."""
    radians = np.radians(degrees)  # clockwise on the screen, where y points down
    right, down = (np.cos(radians), np.sin(radians)), (-np.sin(radians), np.cos(radians))
    info = probe(with_matrix(plain, tmp_path / "turned.mp4", right, down))
    stored, shown = read_frames(probe(plain), [0])[0], read_frames(info, [0])[0]
    expected = Image.fromarray(stored).rotate(-degrees, Image.Resampling.BILINEAR)
    assert np.abs(np.int32(shown) - np.asarray(expected, np.int32)).mean() < 2
    assert (info.height, info.width) == (64, 80)


@pytest.mark.parametrize(
    ("right", "down"), [((1, 0), (1, 1)), ((1, 0), (200, 1)), ((1, 1), (1, 1)), ((1, 0.03), (0, 1))]
)
def test_a_matrix_that_skews_the_picture_is_refused(plain, tmp_path, right, down):
    """Players do not agree on it, and one damaged number makes a picture a line."""
    path = with_matrix(plain, tmp_path / "skewed.mp4", right, down)
    with pytest.raises(MediaError, match=r"skewed\.mp4: its display matrix is damaged or skews"):
        probe(path)
    with serve(tmp_path) as address, pytest.raises(SourceBroken, match="display matrix is damaged"):
        list(read_source(f"{address}/skewed.mp4", Timeouts(), lambda *_: None))


@pytest.mark.parametrize(
    ("right", "down", "size"),
    [
        ((2, 0), (0, 1), (64, 160)),
        ((1, 0), (0, 2), (128, 80)),
        ((0, 2), (-1, 0), (160, 64)),  # a step to the right in the picture is two down on the screen
        ((0, -1), (-2, 0), (80, 128)),
        ((3, 0), (0, 3), (64, 80)),  # players choose the size of the whole
    ],
)
def test_a_matrix_that_stretches(plain, tmp_path, right, down, size):
    info = probe(with_matrix(plain, tmp_path / "stretched.mp4", right, down))
    assert (info.height, info.width) == size
    stored, shown = read_frames(probe(plain), [1])[0], read_frames(info, [1])[0]
    np.testing.assert_array_equal(shown, placed(stored, np.sign(right), np.sign(down)))


def test_frames_with_side_data_that_pyav_does_not_know(tmp_path):
    """EXIF data in Motion JPEG, here with a turn, which FFmpeg makes a display matrix of."""
    exif = Image.Exif()
    exif[0x0112] = 5  # transposed
    picture = np.tile(np.arange(0, 240, 3, np.uint8)[None, :, None], (64, 1, 3))
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", exif=exif, quality=95)
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 80, "yuvj420p"
        for number in range(3):
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 10)
            container.mux(packet)
    info = probe(path)
    shown = read_frames(info, [0, 2])
    assert (info.height, info.width) == (80, 64)
    assert np.abs(shown - picture.transpose(1, 0, 2).astype(int)).max() < 8


def test_a_matrix_that_shows_nothing_is_ignored():
    for numbers in ([0] * 9, [1 << 16, 0, 0, 1 << 17, 0, 0, 0, 0, 1 << 30]):
        assert matrix_orientation(np.array(numbers, np.int32)) == matrix_orientation(
            np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], np.int32)
        )


def wide_video(path, ratio, size=(64, 80), codec="libx264"):
    """Encodes ten frames, 10 a second, whose pixels have this width over their height."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = ratio
        for number in range(10):
            picture = np.full((*size, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "ratio", "displayed"),
    [
        ("mp4", "libx264", Fraction(2), (64, 160)),
        ("mkv", "libx264", Fraction(16, 11), (64, 116)),  # 116.36
        ("ts", "mpeg2video", Fraction(16, 15), (64, 85)),  # 85.33, coded as a whole picture of 4:3
        ("avi", "mpeg4", Fraction(10, 11), (70, 80)),  # 70.4
        ("ts", "libx264", Fraction(1, 2), (128, 80)),
        ("mp4", "libx264", Fraction(640, 639), (64, 80)),  # an encoder's rounding
        ("mp4", "libx264", Fraction(0, 1), (64, 80)),  # unknown
    ],
)
def test_the_displayed_size(tmp_path, suffix, codec, ratio, displayed):
    """The side that is too short grows; `stored` takes pixels for square."""
    path = wide_video(tmp_path / f"wide.{suffix}", ratio, codec=codec)
    info, stored = probe(path), probe(path, STORED)
    assert (info.height, info.width) == displayed
    assert (stored.height, stored.width) == (64, 80)
    np.testing.assert_array_equal(info.pts_us, stored.pts_us)
    np.testing.assert_array_equal(read_frames(info, [3]), read_frames(stored, [3]))


def test_a_wide_picture_on_its_side(tmp_path):
    """Pixels are widened as they are stored, then the picture is turned."""
    wide = wide_video(tmp_path / "wide.mp4", Fraction(2))
    info = probe(with_matrix(wide, tmp_path / "turned.mp4", (0, 1), (-1, 0)))
    assert (info.height, info.width) == (160, 64)


def test_an_extreme_shape_is_refused(tmp_path):
    path = wide_video(tmp_path / "thin.mp4", Fraction(8), size=(16, 640))
    with pytest.raises(MediaError, match=r"thin\.mp4: 5120x16 pixels: the aspect ratio is above 200"):
        list(read_turns(str(path), PixelBudget.parse(64)))


@pytest.mark.parametrize("pace", ["fast", "own", "http"])
def test_turns_have_the_displayed_shape(tmp_path, pace):
    """A file, a file in real time and an address give pictures of one shape, 160:64 or as stored."""
    path = wide_video(tmp_path / "wide.mp4", Fraction(2))
    source, options = str(path), {"pace": pace}
    with serve(tmp_path) as address:
        if pace == "http":
            source, options = f"{address}/wide.mp4", {}
        options["keep_pace"] = lambda stamp, began: None
        budget = PixelBudget.parse(64)
        for rules, size in ((MediaRules(), (64, 160)), (STORED, (64, 80))):
            (turn,) = read_turns(source, budget, rules=rules, **options)
            assert turn.frames.shape[1:3] == budget.size(*size, 2)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serve(folder):
    """Yields the address of a server of a folder's files."""
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_earlier_indexes_keep_their_orientation(plain, tmp_path):
    """Version 1 of the rules takes the angle of a matrix alone: a mirrored picture is upside down."""
    path = with_matrix(plain, tmp_path / "mirrored.mp4", (-1, 0), (0, 1))
    stored = read_frames(probe(plain), [0])
    np.testing.assert_array_equal(read_frames(probe(path, EARLIER), [0]), stored[:, ::-1, ::-1])
    np.testing.assert_array_equal(read_frames(probe(path), [0]), stored[:, :, ::-1])
