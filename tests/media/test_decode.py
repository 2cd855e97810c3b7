"""Decoding that leaves out what it does not need: never a pixel's difference to decoding it all."""

from pathlib import Path

import av
import numpy as np
import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media import decode
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.non_reference import NonReferenceSkipper
from livecc_jax.media.pixels import patchify, resize
from livecc_jax.media.video import probe, read_frames
from tests.support.media import make_video, pattern

CLIPS = Path(__file__).parents[2] / "data/clips"
OPEN = "open-gop=1:keyint=12:min-keyint=12:bframes=4:b-pyramid=normal:scenecut=0"
HEVC = "open-gop=1:keyint=12:min-keyint=12:bframes=4:scenecut=0:log-level=none"
KINDS = {
    "open.mp4": ("libx264", {"x264-params": OPEN}),
    "open.mkv": ("libx264", {"x264-params": OPEN}),
    "open.ts": ("libx264", {"x264-params": OPEN}),
    "open.avi": ("libx264", {"x264-params": OPEN}),  # which has no presentation timestamps
    "refresh.ts": ("libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=2"}),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}),
    "hevc.mp4": ("libx265", {"x265-params": HEVC}),
    "mpeg2.ts": ("mpeg2video", {"bf": "2", "g": "12"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "12"}),
}


def everything(path):
    """All pictures, in the order in which they are shown."""
    with av.open(str(path)) as container:
        frames = [
            f.to_ndarray(format="rgb24", interpolation="BICUBIC") for f in container.decode(video=0)
        ]
        turned = "rotated" in path.name  # PyAV leaves that to its user
    return [np.rot90(f, 3) for f in frames] if turned else frames


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_out_changes_no_pixel(kind, tmp_path, monkeypatch):
    """From every frame on, some of those that follow: also where groups of pictures are open."""
    codec, options = KINDS[kind]
    fps25 = range(0, 50 * 40, 40)
    path = make_video(tmp_path / kind, fps25, codec, options, frame_rate=25)
    monkeypatch.setattr(decode, "SEEK_FROM_US", 100_000)
    monkeypatch.setattr(decode, "FURTHER_US", 700_000)
    all_of_them = everything(path)
    info = probe(path)
    assert len(info.pts_us) == len(all_of_them) == 50
    rng = np.random.default_rng(0)
    for first in range(50):
        indices = [first, *np.sort(rng.integers(first, min(50, first + 15), 2))]
        for i, picture in zip(indices, read_frames(info, indices), strict=True):
            np.testing.assert_array_equal(picture, all_of_them[i])


@pytest.mark.parametrize("clip", sorted(CLIPS.glob("*.mp4")), ids=lambda p: p.stem)
def test_shipped_clips_are_decoded_as_if_straight(clip):
    """`rotated_90` was cut without encoding anew: its last frames lack a reference."""
    all_of_them = everything(clip)
    info = probe(clip)
    for indices in (range(0, len(info.pts_us), 12), range(len(info.pts_us) - 3, len(info.pts_us))):
        for i, picture in zip(indices, read_frames(info, indices), strict=True):
            np.testing.assert_array_equal(picture, all_of_them[i])


def test_a_group_cut_before_its_end_is_decoded_whole(tmp_path):
    """A gap in decoding times where a reference may be missing, and none elsewhere."""
    times = range(0, 3600, 40)
    whole = make_video(tmp_path / "whole.mp4", times, "libx264", {"g": "30"}, frame_rate=25)
    with av.open(str(whole)) as container:
        stamps = [e.timestamp for e in container.streams.video[0].index_entries]
        skips = NonReferenceSkipper(container, container.streams.video[0], stamps[0], stamps[-1])
        assert [skips.may_skip(stamps[i]) for i in (0, 45, 75, 89)] == [True] * 4
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as copy:
        stream = source.streams.video[0]
        out = copy.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            if number not in (55, 88):
                packet.stream = out
                copy.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        kept = [e.timestamp for e in container.streams.video[0].index_entries]
        skips = NonReferenceSkipper(container, container.streams.video[0], kept[0], kept[-1])
        assert [skips.may_skip(kept[i]) for i in (0, 35, 75)] == [True, False, False]
        assert not skips.may_skip(kept[-1] + 10_000)


def test_frames_are_left_out(monkeypatch):
    """Two frames a second of a clip with many that nobody refers to: those do not come out."""
    out = []
    monkeypatch.setattr(decode, "decode_packet", lambda c, p: [out.append(f) or f for f in c.decode(p)])
    info = probe(CLIPS / "bbb_espeak_narration_30s.mp4")
    out.clear()
    read_frames(info, range(240, 600, 12))
    assert len(out) < 0.7 * 360


def test_a_clip_as_patches():
    """The same as all its frames at once, also where the last one is repeated."""
    info = probe(CLIPS / "bikes.mp4")
    for size in ((140, 336), (308, 644)):
        indices = np.array([3, 20, 40, 40])
        clip = MediaSlice(info, indices, info.frame_times_us[indices], *size)
        expected, grid = patchify(resize(read_frames(info, indices), size))
        assert clip.grid == grid
        np.testing.assert_array_equal(clip.load_patches().reshape(expected.shape), expected)


def test_what_opencv_has_no_decoder_for(tmp_path):
    """AV1, which is in PyAV's build alone; and a codec in neither's, said in one sentence."""
    path = make_video(tmp_path / "av1.mp4", range(0, 1000, 100), "libsvtav1", {"preset": "12"})
    info = probe(path)
    assert (info.height, info.width) == (64, 80)
    for i, picture in zip((0, 4, 9), read_frames(info, [0, 4, 9]), strict=True):
        assert np.abs(picture.astype(int) - pattern(i, 64, 80)).mean() < 8
    path = make_video(tmp_path / "unknown.mp4", [0, 100, 200])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match=r"unknown\.mp4: .*codec .*cannot be decoded"):
        probe(path)


def test_a_hole_in_the_middle(tmp_path):
    """Frames whose bytes are ruined are refused or concealed; the others come, in bounded time."""
    path = make_video(tmp_path / "hole.mp4", range(0, 3000, 100), options={"g": "10", "bf": "0"})
    content = bytearray(path.read_bytes())
    info, whole = probe(path), everything(path)
    with av.open(str(path)) as container:
        ruined = [p for p in container.demux(video=0) if p.size][12:14]
        for packet in ruined:
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    for i in (3, 9, 20, 29):
        np.testing.assert_array_equal(read_frames(info, [i])[0], whole[i])
    with pytest.raises(MediaError, match=r"hole\.mp4: the frame at 1\.200 s cannot be decoded"):
        read_frames(info, [12])
