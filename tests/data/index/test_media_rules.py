"""An index keeps to the media rules that it was made with, whatever the rules are today."""

import json
import shutil
import sqlite3
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.media_slice import load_patches
from livecc_jax.data.files.remote import file_stat
from livecc_jax.data.files.timestamps import TimestampCache
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.reader import Index
from livecc_jax.data.rows.mixture import Mixture
from livecc_jax.errors import DataError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patchify, resize
from livecc_jax.media.rules import DEFAULT, EARLIER, MediaRules
from livecc_jax.media.video import VideoInfo, probe
from tests.support.media import make_video

BUDGET = PixelBudget.parse(16)
SIZE = (112, 140)
EARLIER_META = Path(__file__).parents[2] / "goldens/earlier/index/meta.json"
STAMPS = [0, 100, 200, 1900, 2000, 4100, 4200]  # ms


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """A file that the rules read differently: wide pixels, two tracks, a gap; and a mirrored one."""
    folder = tmp_path_factory.mktemp("media")
    with av.open(str(folder / "odd.mkv"), "w") as container:
        packets = []
        for track in (0, 1):
            stream = container.add_stream(
                "libx264", rate=10, options={"preset": "ultrafast", "bf": "0"}
            )
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(2)
            stream.disposition = av.stream.Disposition(track)  # the second is the default
            for number, stamp in enumerate(STAMPS):
                picture = np.full((*SIZE, 3), 20 * number + 100 * track, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture)
                frame.pts = stamp // 100
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.pts * packet.time_base):
            container.mux(packet)
    mirrored = make_video(folder / "mirrored.mp4", range(0, 5000, 100), size=SIZE)
    content = bytearray(mirrored.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 4] = struct.pack(">i", -(1 << 16))
    mirrored.write_bytes(content)
    words = [[t, t + 0.1, f"w{i}"] for i, t in enumerate(np.arange(0.2, 4.0, 0.3).round(1).tolist())]
    lines = [
        json.dumps(
            [
                {"role": "user", "content": [{"type": "video", "video": name}]},
                {
                    "role": "assistant",
                    "content": [{"type": "text_stream", "text_stream": words}],
                },
            ]
        )
        for name in ("odd.mkv", "mirrored.mp4")
    ]
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def raw_frames(path, track):
    """PyAV's frames by their timestamp in ms."""
    with av.open(str(path)) as container:
        stream = container.streams.video[track]
        frames = list(container.decode(stream))
    first = min(frame.pts for frame in frames)
    return {
        round((frame.pts - first) * frame.time_base * 1000): frame.to_ndarray(
            format="rgb24", interpolation="BICUBIC"
        )
        for frame in frames
    }


def patches_of(index, number, template):
    files = MediaFiles().with_rules(index.rules)
    (media,) = index.encoded_example(number, template, MediaFiles()).media
    return load_patches(media, files).reshape(-1, 1176)


@pytest.mark.parametrize(
    ("rules", "track", "size", "stamps"),
    [
        # Moments are 0.1, 0.6, ..., 4.1 s, the time of a frame being 0.1 s after its timestamp.
        (DEFAULT, 1, (112, 280), [0, 1900, 1900, 1900, 2000, 4100, 4100, 4100, 4100, 4100]),
        (
            MediaRules(track=0, aspect="stored", gap="previous"),
            0,
            (112, 140),
            [0, 200, 200, 200, 2000, 2000, 2000, 2000, 4100, 4100],
        ),
        (EARLIER, 0, (112, 140), [0, 1900, 1900, 1900, 2000, 4100, 4100, 4100, 4100, 4100]),
    ],
)
def test_rows_follow_the_rules_of_the_index(
    annotations, template, tmp_path, rules, track, size, stamps
):
    """Pictures by track, shape and moment are PyAV's; another index of the same files has others."""
    out = tmp_path / "index"
    build_index([annotations], out, template.tokenizer, BUDGET, rules=rules)
    if rules == EARLIER:  # as it was written before rules were recorded
        meta = json.loads((out / "meta.json").read_text())
        earlier = {k: meta[k] for k in json.loads(EARLIER_META.read_text())}
        assert "media_rules" not in earlier
        (out / "meta.json").write_text(json.dumps(earlier))
        (out / "checksums.npy").unlink()
    index = Index(out)
    assert index.rules == rules == Mixture(str(out)).media_rules(0)
    raw, height_width = raw_frames(annotations.parent / "odd.mkv", track), BUDGET.size(*size, 10)
    (media,) = index.encoded_example(0, template, MediaFiles()).media
    shown = (media.source.pts_us[media.indices] // 1000).tolist()
    assert shown == stamps[: len(shown)]
    assert len(shown) >= 6
    expected = patchify(resize(np.stack([raw[stamp] for stamp in shown]), height_width))[0]
    np.testing.assert_array_equal(patches_of(index, 0, template), expected)
    # The mirrored file: earlier indexes showed it upside down, and go on to do so.
    raw = raw_frames(annotations.parent / "mirrored.mp4", 0)
    (media,) = index.encoded_example(1, template, MediaFiles()).media
    pictures = np.stack([raw[t] for t in (media.source.pts_us[media.indices] // 1000).tolist()])
    pictures = pictures[:, ::-1, ::-1] if rules == EARLIER else pictures[:, :, ::-1]
    expected = patchify(resize(pictures, BUDGET.size(*SIZE, 10)))[0]
    np.testing.assert_array_equal(patches_of(index, 1, template), expected)


def test_a_copied_file_is_compared_by_the_rules_of_the_index(annotations, template, tmp_path):
    """Another time of change has the timestamps read again, as they were read for the index."""
    folder = tmp_path / "copy"
    shutil.copytree(annotations.parent, folder)
    build_index([folder / "a.jsonl"], folder / "index", template.tokenizer, BUDGET, rules=EARLIER)
    index = Index(folder / "index")
    (folder / "odd.mkv").touch()
    assert index.encoded_example(0, template, MediaFiles()).tokens == index.tokens[0]


def test_an_index_of_unknown_rules_is_refused(annotations, template, tmp_path):
    out = tmp_path / "index"
    build_index([annotations], out, template.tokenizer, BUDGET)
    meta = json.loads((out / "meta.json").read_text())
    earlier = {k: meta[k] for k in json.loads(EARLIER_META.read_text())}
    for change in ({"version": 3}, {"gap": "both"}, {"track": "1"}, {"more": 1}):
        changed = earlier | {"media_rules": meta["media_rules"] | change}
        (out / "meta.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"rules of media .* index again"):
            Index(out)


def test_frames_whose_times_changed_end_the_run(tmp_path):
    """They are not quarantined one by one; those of a damaged file of today's rules are."""
    path = str(make_video(tmp_path / "a.mp4", range(0, 3000, 100)))
    good = probe(path)
    files = MediaFiles()
    for rules, error, sentence in (
        (EARLIER, DataError, r"a\.mp4: was indexed when .* other times; index again"),
        (DEFAULT, MediaError, r"a\.mp4: the frame at 0\.250 s cannot be decoded"),
    ):
        moved = VideoInfo(path, np.array([250_000]), good.frame_duration_us, 80, 64, rules=rules)
        with pytest.raises(error, match=sentence):
            list(files.frames(moved, np.array([0])))


def test_kept_timestamps_are_those_of_the_rules(annotations, tmp_path):
    """Timestamps that an earlier version kept are of unknown rules, and not used."""
    kept, path = tmp_path / "timestamps.sqlite", str(annotations.parent / "odd.mkv")
    stat = file_stat(path)
    with sqlite3.connect(kept) as earlier:
        earlier.execute(
            "CREATE TABLE videos "
            "(path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, found BLOB) WITHOUT ROWID"
        )
        earlier.execute(
            "INSERT INTO videos VALUES (?, ?, ?, ?)", (path, stat.size, stat.mtime_ns, b"junk")
        )
    earlier.close()
    cache = TimestampCache(kept)
    stored = MediaRules(aspect="stored")
    assert cache.get(path, stat) is None
    cache.put(path, stat, probe(path))
    cache.put(path, stat, probe(path, stored), stored)
    assert (cache.get(path, stat).width, cache.get(path, stat, stored).width) == (280, 140)
    assert cache.get(path, stat, MediaRules(gap="previous")).width == 280
