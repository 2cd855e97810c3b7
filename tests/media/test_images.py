"""Tests images: transparency, orientation, tiles, and that a damaged file is refused.

Right values are computed from the arrays that the files are made of.
"""

import io
import struct
import zlib

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import sample_media
from livecc_jax.media.images import read_image
from livecc_jax.media.video import probe, read_frames
from tests.support.heif import avif_tile, hevc_tile, write_grid

HEIGHT, WIDTH = 24, 32
RANDOM = np.random.default_rng(0)
RGBA = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
RGBA[:4, :, 3], RGBA[4:8, :, 3] = 0, 255
RGB, GREY, ALPHA = RGBA[..., :3], RGBA[..., 0], RGBA[..., 3]
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 4)).astype(np.uint16)
PALETTE = RANDOM.integers(0, 256, (8, 3)).astype(np.uint8)
PALETTE_ALPHA = np.array([0, 10, 128, 255, 255, 7, 255, 255], np.uint8)
NUMBERS = GREY // 32
y, x = np.mgrid[:150, :200]
SMOOTH = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)
NOISY = (SMOOTH // 2 + RANDOM.integers(0, 100, SMOOTH.shape)).astype(np.uint8)


def encode(picture, kind, **options):
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(
        out, kind, **options
    )
    return out.getvalue()


def png(depth, colour, samples, key=None):
    """Returns a PNG of samples [H, W, channels] of any depth, with a transparent colour if given."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width = samples.shape[:2]
    if depth == 16:
        lines = [b"\0" + line.astype(">u2").tobytes() for line in samples]
    else:
        bits = (samples.reshape(height, -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        lines = [b"\0" + np.packbits(line.reshape(-1)).tobytes() for line in bits]
    return b"".join([
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key is not None else b"",
        chunk(b"IDAT", zlib.compress(b"".join(lines))),
        chunk(b"IEND", b""),
    ])  # fmt: skip


def over_white(rgb, alpha):
    share = np.asarray(alpha, float)[..., None] / 255
    return np.floor(np.asarray(rgb, float) * share + 255 * (1 - share) + 0.5)


def three(grey):
    return np.stack([grey] * 3, -1)


def palette_image():
    image = Image.fromarray(NUMBERS).copy()
    image.putpalette(PALETTE.tobytes())
    return image


def with_key(samples, key, rgb):
    return over_white(rgb, np.where((samples == key).all(-1), 0, 255))


def transparent_images():
    """Yields name, file contents, right picture and tolerance."""
    key = [int(v) for v in DEEP[7, 7, :3]]
    near = DEEP[..., :3].copy()
    near[7, 8] = near[7, 7] ^ 1  # the same in 8 bits, and not transparent
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    number_3 = np.where(NUMBERS == 3, 0, 255)
    for kind in ("PNG", "TIFF", "JPEG2000"):
        yield f"{kind} RGBA", encode(RGBA, kind), over_white(RGB, ALPHA), 0
        yield f"{kind} LA", encode(la, kind), over_white(three(GREY), ALPHA), 0
    lossless = {"lossless": True, "exact": True}
    yield "WebP", encode(RGBA, "WEBP", **lossless), over_white(RGB, ALPHA), 0
    best = {"quality": 100, "subsampling": "4:4:4"}
    yield "AVIF", encode(RGBA, "AVIF", **best), over_white(RGB, ALPHA), 4
    alphas = {"transparency": PALETTE_ALPHA.tobytes()}
    shown = over_white(PALETTE[NUMBERS], PALETTE_ALPHA[NUMBERS])
    yield "PNG palette", encode(palette_image(), "PNG", **alphas), shown, 0
    yield (
        "GIF",
        encode(palette_image(), "GIF", transparency=3),
        over_white(PALETTE[NUMBERS], number_3),
        0,
    )
    deep = over_white(DEEP[..., :3] >> 8, DEEP[..., 3] >> 8)
    yield "PNG RGBA 16", png(16, 6, DEEP), deep, 0
    grey = over_white(three(DEEP[..., 0] >> 8), DEEP[..., 3] >> 8)
    yield "PNG LA 16", png(16, 4, DEEP[..., [0, 3]]), grey, 0
    yield "PNG RGB 16 key", png(16, 2, near, key), with_key(near, key, near >> 8), 0
    grey = near[..., :1]
    yield (
        "PNG grey 16 key",
        png(16, 0, grey, key[:1]),
        with_key(grey, key[:1], three(grey[..., 0] >> 8)),
        0,
    )
    key = [int(v) for v in RGB[5, 5]]
    yield "PNG RGB key", png(8, 2, RGB, key), with_key(RGB, key, RGB), 0
    for depth in (1, 2, 4, 8):
        grey = (GREY >> (8 - depth))[..., None]
        wide = grey[..., 0].astype(int) * 255 // (2**depth - 1)
        yield f"PNG grey {depth} key", png(depth, 0, grey, [1]), with_key(grey, [1], three(wide)), 0


@pytest.mark.parametrize(
    ("data", "right", "tolerance"), [pytest.param(*c, id=n) for n, *c in transparent_images()]
)
def test_transparency_is_shown_over_white(tmp_path, data, right, tolerance):
    (tmp_path / "image").write_bytes(data)
    ours = read_image(tmp_path / "image")
    assert ours.dtype == np.uint8
    assert ours.shape == right.shape
    assert np.abs(ours - right).max() <= tolerance


def opaque_images():
    image = Image.fromarray(NOISY)
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            options = {"subsampling": subsampling, "progressive": progressive}
            yield f"JPEG {subsampling}{progressive}", encode(image, "JPEG", **options)
    for mode in ("L", "CMYK"):
        yield f"JPEG {mode}", encode(image.convert(mode), "JPEG")
    for kind in ("PNG", "BMP", "TIFF", "GIF"):
        for mode in ("1", "L", "P", "RGB"):
            yield f"{kind} {mode}", encode(image.convert(mode), kind)
    for compression in ("tiff_lzw", "jpeg", "packbits"):
        yield f"TIFF {compression}", encode(image, "TIFF", compression=compression)
    for kind in ("WEBP", "AVIF", "JPEG2000", "PPM"):
        yield kind, encode(image, kind)
    deep = (NOISY.astype(np.uint16) << 8) + NOISY[::-1]
    for ending in (".png", ".tiff"):
        for name, pixels in (("RGB", deep), ("grey", deep[..., 0])):
            yield f"{ending} {name} 16", cv2.imencode(ending, pixels)[1].tobytes()
    yield "HDR", cv2.imencode(".hdr", NOISY.astype(np.float32) / 255)[1].tobytes()


@pytest.mark.parametrize("data", [pytest.param(d, id=n) for n, d in opaque_images()])
def test_pixels_of_opaque_images_are_those_of_opencv(tmp_path, data):
    (tmp_path / "image").write_bytes(data)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(read_image(tmp_path / "image"), theirs)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF"])
def test_orientation(tmp_path, kind):
    turn = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1), 8: np.rot90,
    }  # fmt: skip
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    picture = SMOOTH[:48, :80]
    for orientation, turned in turn.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(picture, kind, exif=exif, **options.get(kind, {}))
        (tmp_path / "image").write_bytes(data)
        difference = np.abs(read_image(tmp_path / "image").astype(int) - turned(picture))
        assert difference.max() <= (4 if kind == "AVIF" else 0)


def box(name, value):
    return struct.pack(">I4sB", 9, name, value)


@pytest.mark.parametrize("make_tile", [avif_tile, hevc_tile])
def test_a_picture_in_tiles_is_read_whole(tmp_path, make_tile):
    tiles = [make_tile(SMOOTH[i : i + 64, j : j + 64]) for i in (0, 64) for j in (0, 64, 128)]
    kind = ".avif" if make_tile is avif_tile else ".heic"
    shown = SMOOTH[:110, :180].astype(int)
    cases = {
        b"": shown,
        box(b"irot", 1): np.rot90(shown),
        box(b"irot", 3) + box(b"imir", 1): np.rot90(shown, 3)[:, ::-1],
        box(b"imir", 0): shown[::-1],
    }
    for number, (transformations, right) in enumerate(cases.items()):
        path = tmp_path / f"{number}{kind}"
        write_grid(path, tiles, 2, 3, (64, 64), (110, 180), transformations)
        ours = read_image(path)
        assert ours.shape == right.shape
        assert np.abs(ours - right).max() <= 6
    asked = sample_media(tmp_path / f"0{kind}", PixelBudget.parse("64"))
    assert (asked.kind, asked.frames.shape) == ("image", (2, 140, 224, 3))
    with pytest.raises(MediaError, match="still picture stored in tiles"):
        probe(tmp_path / f"0{kind}")
    data = (tmp_path / f"0{kind}").read_bytes()
    for size in (len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(MediaError, match="cut short"):
            read_image(tmp_path / "cut")


def whole_images():
    image = Image.fromarray(NOISY)
    yield "JPEG", encode(image, "JPEG")
    yield "JPEG progressive", encode(image, "JPEG", progressive=True)
    yield "JPEG restarts", encode(image, "JPEG", restart_marker_blocks=8)
    two = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    for kind in ("PNG", "GIF", "WEBP"):
        yield kind, encode(image, kind)
        yield f"{kind} animated", encode(image, kind, **two)
    for kind in ("TIFF", "AVIF", "JPEG2000", "BMP", "PPM"):
        yield kind, encode(image, kind)
    yield "TIFF LZW", encode(image, "TIFF", compression="tiff_lzw")


@pytest.mark.parametrize("data", [pytest.param(d, id=n) for n, d in whole_images()])
def test_a_cut_image_is_refused(tmp_path, data, capfd):
    (tmp_path / "image").write_bytes(data)
    read_image(tmp_path / "image")
    for size in [*(int(len(data) * share) for share in (0.01, 0.1, 0.5, 0.9, 0.99)), len(data) - 1]:
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(MediaError, match=r"cut: is not a (whole|readable) image"):
            read_image(tmp_path / "cut")
    if data[:2] == b"\xff\xd8":  # a progressive one too
        assert capfd.readouterr() == ("", "")  # libjpeg prints nothing by itself
        (tmp_path / "cut").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
        with pytest.raises(MediaError, match="damaged"):
            read_image(tmp_path / "cut")


def test_damage_that_a_format_can_show_is_refused(tmp_path):
    image = Image.fromarray(NOISY)
    cases = {
        "JPEG": encode(image, "JPEG"),
        "PNG": encode(image, "PNG"),
        "AVIF": encode(image, "AVIF"),
        "TIFF": encode(image, "TIFF", compression="tiff_lzw"),
    }
    for data in cases.values():
        middle, noise = len(data) // 2, RANDOM.bytes(1000).replace(b"\xff", b"\0")
        (tmp_path / "image").write_bytes(data[:middle] + noise + data[middle + len(noise) :])
        with pytest.raises(MediaError, match="is not a whole image"):
            read_image(tmp_path / "image")


def test_damaged_text_beside_a_good_picture_is_passed_over(tmp_path):
    data = png(8, 2, RGB)
    text = struct.pack(">I", 3) + b"tEXt" + b"a\0b" + b"\0\0\0\0"  # a wrong checksum
    (tmp_path / "image.png").write_bytes(data[:33] + text + data[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), RGB)


def test_videos_with_transparency_are_shown_over_white(tmp_path):
    first, second = palette_image(), palette_image().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    options = {"transparency": 3, "save_all": True, "append_images": [second], "disposal": 2}
    (tmp_path / "a.gif").write_bytes(encode(first, "GIF", duration=100, **options))
    right = over_white(PALETTE[NUMBERS], np.where(NUMBERS == 3, 0, 255))
    shown = read_frames(probe(tmp_path / "a.gif"), [0, 1])
    np.testing.assert_array_equal(shown, [right, right[::-1]])
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=10)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "argb"
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(RGBA, format="rgba").reformat(format="argb")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = read_frames(probe(tmp_path / "a.mov"), [0])
    np.testing.assert_array_equal(shown[0], over_white(RGB, ALPHA))


def test_a_picture_is_known_by_its_contents(tmp_path):
    """Whatever its name is, and also where it is given as a video; a cut one is refused everywhere."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image, budget = Image.fromarray(SMOOTH), PixelBudget.parse("64")
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "JPEG2000", "PPM"):
        data = (
            encode(image, kind, exif=exif) if kind in ("JPEG", "PNG", "TIFF") else encode(image, kind)
        )
        (tmp_path / "photo").write_bytes(data)
        (tmp_path / "cut").write_bytes(data[: len(data) // 2])
        shown = read_image(tmp_path / "photo")
        assert sample_media(tmp_path / "photo", budget).kind == "image"
        assert sample_media(tmp_path / "photo", budget).frames.shape == (
            2, *budget.size(*shown.shape[:2], 2), 3,
        )  # fmt: skip
        info = probe(tmp_path / "photo")
        assert (info.height, info.width) == shown.shape[:2]
        for read in (read_image, probe, lambda path: sample_media(path, budget)):
            with pytest.raises(MediaError, match=r"cut: is not a (whole|readable) image"):
                read(tmp_path / "cut")
    (tmp_path / "a.gif").write_bytes(encode(image, "GIF"))
    assert sample_media(tmp_path / "a.gif", budget).kind == "video"


def test_pictures_whose_colours_would_come_out_wrong_say_so(tmp_path):
    preview = ImageFileDirectory_v2()
    preview[254] = 1  # a smaller version of another picture of the file
    pam = b"P7\nWIDTH 32\nHEIGHT 24\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
    cases = {
        "colours are CIE Lab": encode(Image.fromarray(SMOOTH).convert("LAB"), "TIFF"),
        "a small preview of another": encode(SMOOTH, "TIFF", tiffinfo=preview),
        "a PAM with transparency": pam + RGBA.tobytes(),
        "of a format that is not read; those that are read are JPEG": encode(SMOOTH, "TGA"),
    }
    for reason, data in cases.items():
        (tmp_path / "image").write_bytes(data)
        with pytest.raises(MediaError, match=f"image: is not a readable image.*{reason}"):
            read_image(tmp_path / "image")


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_webm_with_transparency_is_shown_over_white(tmp_path, codec):
    """Its alpha lies beside the pictures, where FFmpeg's own decoders do not look."""
    options = {"deadline": "realtime", "g": "5", "auto-alt-ref": "0"}
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuva420p"
        for number in range(25):
            rgba = np.full((64, 96, 4), 40 + 4 * number, np.uint8)
            rgba[:, :48, 3], rgba[:, 48:, 3] = 255, 0
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info = probe(tmp_path / "a.webm")
    for numbers in (range(25), [12, 20]):  # from the start, and after a seek
        shown = read_frames(info, numbers)
        assert shown[:, :, 56:].min() >= 253
        grey = shown[:, :, :40].mean((1, 2, 3))
        assert np.abs(grey - (40 + 4 * np.array(numbers))).max() < 3


def test_pictures_that_cannot_be_read_as_videos_say_so(tmp_path):
    image = Image.fromarray(NOISY)
    two = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    (tmp_path / "a.webp").write_bytes(encode(image, "WEBP", **two))
    with pytest.raises(MediaError, match="animated WebP, which FFmpeg does not read"):
        probe(tmp_path / "a.webp")
    for kind in ("GIF", "PNG"):
        data = encode(image, kind, **two)
        (tmp_path / "cut").write_bytes(data[: len(data) * 3 // 4])
        with pytest.raises(MediaError, match="cut short"):
            probe(tmp_path / "cut")


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path):
    data = bytearray(png(8, 2, RGB))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(MediaError, match="pixels"):
        read_image(tmp_path / "image.png")
