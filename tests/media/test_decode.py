"""Tests that decoding only what is needed gives the same pixels as decoding everything."""

from pathlib import Path

import av
import numpy as np
import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.decode import decode_at
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


def decode_everything(path):
    """Returns all frames in presentation order."""
    with av.open(str(path)) as container:
        frames = [
            f.to_ndarray(format="rgb24", interpolation="BICUBIC") for f in container.decode(video=0)
        ]
        rotated = "rotated" in path.name  # PyAV does not apply the rotation
    return [np.rot90(f, 3) for f in frames] if rotated else frames


@pytest.mark.parametrize("kind", KINDS)
def test_seeking_and_skipping_change_no_pixel(kind, tmp_path):
    """Starts at every frame and decodes some of the next ones, also in open groups of pictures."""
    codec, options = KINDS[kind]
    fps25 = range(0, 50 * 40, 40)
    path = make_video(tmp_path / kind, fps25, codec, options, frame_rate=25)
    every_frame = decode_everything(path)
    info = probe(path)
    assert len(info.pts_us) == len(every_frame) == 50
    rng = np.random.default_rng(0)
    for first in range(50):
        indices = np.unique([first, *rng.integers(first, min(50, first + 15), 2)])
        frames = decode_at(
            info.path,
            info.pts_us[indices].tolist(),
            info.lead_us,
            seek_from_us=100_000,
            retry_margin_us=700_000,
        )
        for i, frame in zip(indices, frames, strict=True):
            np.testing.assert_array_equal(frame, every_frame[i])


@pytest.mark.parametrize("clip", sorted(CLIPS.glob("*.mp4")), ids=lambda p: p.stem)
def test_shipped_clips_are_decoded_as_from_the_start(clip):
    """`rotated_90` was cut without re-encoding: its last frames lack a reference."""
    every_frame = decode_everything(clip)
    info = probe(clip)
    for indices in (range(0, len(info.pts_us), 12), range(len(info.pts_us) - 3, len(info.pts_us))):
        for i, frame in zip(indices, read_frames(info, indices), strict=True):
            np.testing.assert_array_equal(frame, every_frame[i])


def test_a_group_with_a_gap_at_its_end_is_decoded_completely(tmp_path):
    """A gap in the decoding times, where a reference may be missing, disables skipping before it."""
    times = range(0, 3600, 40)
    complete = make_video(tmp_path / "complete.mp4", times, "libx264", {"g": "30"}, frame_rate=25)
    with av.open(str(complete)) as container:
        stamps = [e.timestamp for e in container.streams.video[0].index_entries]
        skipper = NonReferenceSkipper(container, container.streams.video[0], stamps[0], stamps[-1])
        assert [skipper.may_skip(stamps[i]) for i in (0, 45, 75, 89)] == [True] * 4
    with av.open(str(complete)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as copy:
        stream = source.streams.video[0]
        out = copy.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            if number not in (55, 88):
                packet.stream = out
                copy.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        remaining = [e.timestamp for e in container.streams.video[0].index_entries]
        skipper = NonReferenceSkipper(
            container, container.streams.video[0], remaining[0], remaining[-1]
        )
        assert [skipper.may_skip(remaining[i]) for i in (0, 35, 75)] == [True, False, False]
        assert not skipper.may_skip(remaining[-1] + 10_000)


def test_non_reference_frames_are_not_decoded():
    """Many non-reference frames of a clip are not decoded when two frames a second are requested."""
    decoded = []

    def count_frames(context, packet):
        frames = context.decode(packet)
        decoded.extend(frames)
        return frames

    info = probe(CLIPS / "bbb_espeak_narration_30s.mp4")
    times = info.pts_us[240:600:12].tolist()
    frames = list(decode_at(info.path, times, info.lead_us, packet_decoder=count_frames))
    assert len(frames) == 30
    assert len(decoded) < 0.7 * 360


def test_a_clip_as_patches():
    """The patches are those of all frames at once, also where the last frame is repeated."""
    info = probe(CLIPS / "bikes.mp4")
    for size in ((140, 336), (308, 644)):
        indices = np.array([3, 20, 40, 40])
        clip = MediaSlice(info, indices, info.frame_times_us[indices], *size)
        expected, grid = patchify(resize(read_frames(info, indices), size))
        assert clip.grid == grid
        np.testing.assert_array_equal(clip.load_patches().reshape(expected.shape), expected)


def test_codecs_that_opencv_lacks(tmp_path):
    """AV1, which only PyAV decodes; and a codec that neither decodes, with a one-sentence error."""
    path = make_video(tmp_path / "av1.mp4", range(0, 1000, 100), "libsvtav1", {"preset": "12"})
    info = probe(path)
    assert (info.height, info.width) == (64, 80)
    for i, frame in zip((0, 4, 9), read_frames(info, [0, 4, 9]), strict=True):
        assert np.abs(frame.astype(int) - pattern(i, 64, 80)).mean() < 8
    path = make_video(tmp_path / "unknown.mp4", [0, 100, 200])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match=r"unknown\.mp4: .*codec .*cannot be decoded"):
        probe(path)


def test_a_hole_in_the_middle(tmp_path):
    """Damaged frames are refused or concealed; the others are decoded, in bounded time."""
    path = make_video(tmp_path / "hole.mp4", range(0, 3000, 100), options={"g": "10", "bf": "0"})
    content = bytearray(path.read_bytes())
    info, every_frame = probe(path), decode_everything(path)
    with av.open(str(path)) as container:
        damaged = [p for p in container.demux(video=0) if p.size][12:14]
        for packet in damaged:
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    for i in (3, 9, 20, 29):
        np.testing.assert_array_equal(read_frames(info, [i])[0], every_frame[i])
    with pytest.raises(MediaError, match=r"hole\.mp4: the frame at 1\.200 s cannot be decoded"):
        read_frames(info, [12])
