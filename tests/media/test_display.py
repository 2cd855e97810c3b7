"""Tests the picture on the screen: every display matrix, and pixels that are not square."""

import http.server
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
    handler = partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        if pace == "http":
            source, options = f"http://127.0.0.1:{server.server_port}/wide.mp4", {}
        options["keep_pace"] = lambda stamp, began: None
        budget = PixelBudget.parse(64)
        for rules, size in ((MediaRules(), (64, 160)), (STORED, (64, 80))):
            (turn,) = read_turns(source, budget, rules=rules, **options)
            assert turn.frames.shape[1:3] == budget.size(*size, 2)
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_earlier_indexes_keep_their_orientation(plain, tmp_path):
    """Version 1 of the rules takes the angle of a matrix alone: a mirrored picture is upside down."""
    path = with_matrix(plain, tmp_path / "mirrored.mp4", (-1, 0), (0, 1))
    stored = read_frames(probe(plain), [0])
    np.testing.assert_array_equal(read_frames(probe(path, EARLIER), [0]), stored[:, ::-1, ::-1])
    np.testing.assert_array_equal(read_frames(probe(path), [0]), stored[:, :, ::-1])
