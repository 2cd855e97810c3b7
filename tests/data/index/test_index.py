"""The index: examples from it alone, moved with its data, checked against its files."""

import json
import logging
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from livecc_jax.data.examples.encode import encode_example
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.media_slice import load_patches
from livecc_jax.data.files.timestamps import TimestampCache
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.reader import Index
from livecc_jax.errors import ConfigError, DataError, ExampleError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.timeline.example import VideoClip

ROOT = Path(__file__).parents[3]
CLIPS = ROOT / "data/clips"
BUDGET = PixelBudget.parse(12)
NARRATION = json.loads((ROOT / "data/annotations/narration.jsonl").read_text().splitlines()[0])


def annotations(home):
    return [home / f"annotations/{name}.jsonl" for name in ("windows", "qa", "narration")]


@pytest.fixture
def demuxed(caplog):
    """A function that returns the names of the files whose timestamps have been read so far."""
    logger = "livecc_jax.data.examples.media_files"
    caplog.set_level(logging.DEBUG, logger)

    def names():
        ours = [r for r in caplog.records if r.name == logger and "reading timestamps" in r.msg]
        return [Path(r.args[0]).name for r in ours]

    return names


def test_examples_come_from_the_index_alone(home, template):
    """Token for token and pixel for pixel what the annotations say, without reading them again."""
    index = build_index(annotations(home), home / "index", template.tokenizer, BUDGET, row_tokens=300)
    assert index.num_slices
    assert index.kind_counts == {"streaming": index.num_slices, "conversations": 4}
    expected = [encode_example(index.example(i), template, BUDGET) for i in range(len(index))]
    for path in annotations(home):
        path.unlink()
    index, files = Index(home / "index"), MediaFiles()
    for i, wanted in enumerate(expected):
        example = index.encoded_example(i, template, files)
        for name in ("tokens", "supervised", "grids", "turns"):
            np.testing.assert_array_equal(getattr(example.encoded, name), getattr(wanted.encoded, name))
        assert example.turns == wanted.turns
        assert example.windows(index.window) == wanted.windows(index.window) == index.windows[i]
        np.testing.assert_array_equal(example.frame_times_us, wanted.frame_times_us)
        np.testing.assert_array_equal(index.record(i).frame_times_us, wanted.frame_times_us)
        for a, b in zip(example.media, wanted.media, strict=True):
            np.testing.assert_array_equal(load_patches(a, files), load_patches(b))


@pytest.mark.parametrize("provisional", [False, True])
def test_a_silent_tail_is_kept(home, template, provisional):
    """Silent turns follow the last words of a clip, in the index as in its annotation."""
    conversation = json.loads(annotations(home)[2].read_text().splitlines()[0])
    media = {"video_start": 0.0, "video_end": 12.0, "duration": 30.0, "width": 854, "height": 480}
    conversation[0]["content"][0] |= media
    conversation[1]["content"][0]["text_stream"] = [[1.0, 1.5, "Hello"], [5.0, 5.4, "again"]]
    path = home / "annotations/tail.jsonl"
    path.write_text(json.dumps(conversation) + "\n")
    turns, digests = {}, set()
    for tail in (0, 3, 99):
        out = home / f"index{tail}"
        options = {"provisional": provisional, "silent_tail": tail}
        index = build_index([path], out, template.tokenizer, BUDGET, **options)
        assert index.silent_tail == tail
        turns[tail] = [t.text for t in index.encoded_example(0, template, MediaFiles()).turns]
        digests.add(index.digest)
    assert turns[0] == ["Hello", "", "", "again"]  # turns of the seconds 0 to 3, 3 to 4, ...
    assert turns[3] == [*turns[0], "", "", ""]
    assert turns[99] == [*turns[0], *[""] * 6]  # to the end of the clip, at 12 s
    assert len(digests) == 3
    with pytest.raises(ConfigError, match="silent turns"):
        build_index([path], home / "x", template.tokenizer, BUDGET, silent_tail=-1)


def test_index_and_data_can_be_moved(home, template, tmp_path):
    index = build_index(annotations(home), home / "index", template.tokenizer, BUDGET)
    away = tmp_path / "far/away"
    away.parent.mkdir()
    shutil.copytree(home, away)  # other times of change
    shutil.rmtree(home)
    for moved in (Index(away / "index"), Index(away / "index", root=str(away / "annotations"))):
        assert moved.location(0)[0] == str(away / "annotations/windows.jsonl")
        for i in range(len(moved)):
            assert moved.encoded_example(i, template, MediaFiles()).tokens == index.tokens[i]
    # The index alone, away from its data.
    (away / "index").rename(tmp_path / "index")
    alone = Index(tmp_path / "index", root=str(away / "annotations"))
    assert alone.encoded_example(0, template, MediaFiles()).tokens == index.tokens[0]
    with pytest.raises(MediaError, match=r"bbb_espeak_narration_30s\.mp4: cannot be read"):
        Index(tmp_path / "index").encoded_example(0, template, MediaFiles())


def test_a_file_that_changed_is_reported(home, template, demuxed):
    index = build_index(annotations(home)[:2], home / "index", template.tokenizer, BUDGET)
    clip, image = home / "clips/bbb_espeak_narration_30s.mp4", home / "clips/frame.png"
    number = next(i for i in range(len(index)) if index.location(i) == (str(annotations(home)[1]), 2))
    files = MediaFiles()
    before = len(demuxed())
    index.encoded_example(0, template, files)
    assert len(demuxed()) == before  # the modification time is the same: not even demuxed
    os.utime(clip, ns=(1, 1))
    index.encoded_example(0, template, files)
    index.encoded_example(1, template, files)
    assert len(demuxed()) == before + 1  # a copy is demuxed once
    original = clip.read_bytes()
    size = len(original)
    clip.write_bytes((CLIPS / "bikes.mp4").read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(MediaError, match=r"30s\.mp4: has changed since .* its timestamps differ"):
        index.encoded_example(0, template, files)
    clip.write_bytes(original[:-9])
    with pytest.raises(MediaError, match=rf"it had {size} bytes and has {size - 9}"):
        index.encoded_example(0, template, files)
    index.encoded_example(number, template, files)
    picture = bytearray(image.read_bytes())
    picture[-20] ^= 1
    image.write_bytes(picture)
    with pytest.raises(MediaError, match=r"frame\.png"):
        index.encoded_example(number, template, files)


def test_a_video_is_demuxed_once(home, template, tmp_path, demuxed):
    """For any number of clips, slices and indexes; errors are cached too."""
    (home / "clips/broken.mp4").write_bytes(b"no video" * 99)
    path = home / "annotations/all.jsonl"
    line = json.dumps(NARRATION)
    broken = line.replace("bbb_espeak_narration_30s", "broken")
    path.write_text("\n".join([line, line, broken, broken, line]) + "\n")
    timestamps = tmp_path / "timestamps.sqlite"
    for budget in ("12", "24"):
        index = build_index(
            [path, *annotations(home)], tmp_path / budget, template.tokenizer,
            PixelBudget.parse(budget), timestamps=timestamps, row_tokens=400,
        )  # fmt: skip
        assert index.rejected == {"MediaError": 2}
        assert list(index.reasons) == ["is not a readable video _"]
    names = ["bbb_espeak_narration_30s.mp4", "bikes.mp4", "broken.mp4"]
    assert sorted(demuxed()) == names
    # Files that do not fit the memory cache are read back from disk.
    for path, count in ((timestamps, 3), (tmp_path / "new.sqlite", 6)):
        files = MediaFiles(TimestampCache(path), max_cached_files=1)
        for name in names * 2:
            try:
                files.video_info(VideoClip(str(home / "annotations/../clips" / name)))
            except MediaError as error:
                assert "broken.mp4" in str(error)  # noqa: PT017
        assert len(demuxed()) == count
    with pytest.raises(DataError, match="cannot keep timestamps"):
        TimestampCache(home / "clips/bikes.mp4")


def test_annotations_in_a_bucket(home, template):
    """A store gives the same index as a disk; a missing file is one sentence."""
    store = fsspec.filesystem("memory")
    text = annotations(home)[1].read_text().replace("../clips", str(home / "clips"))
    lines = [*text.splitlines()[:-1], json.dumps(NARRATION).replace("../clips", str(home / "clips"))]
    (home / "all.jsonl").write_text("\n".join(lines) + "\n")
    store.pipe("/corpus/all.jsonl", (home / "all.jsonl").read_bytes())
    local = build_index([home / "all.jsonl"], home / "a", template.tokenizer, BUDGET, root="/")
    remote = build_index(["memory://corpus/all.jsonl"], home / "b", template.tokenizer, BUDGET)
    assert remote.location(0) == ("memory://corpus/all.jsonl", 1)
    for i in range(len(local)):
        a, b = (x.encoded_example(i, template, MediaFiles()) for x in (local, remote))
        np.testing.assert_array_equal(a.encoded.tokens, b.encoded.tokens)
    with pytest.raises(DataError, match=r"memory://corpus/gone\.jsonl: cannot be read"):
        build_index(["memory://corpus/gone.jsonl"], home / "c", template.tokenizer, BUDGET)


def test_provisional_entries_need_no_files(home, template):
    """Rows have room for the actual file; one that is longer than declared is reported."""
    declared = json.loads(json.dumps(NARRATION))
    declared[0]["content"][0] |= {"duration": 30.0, "width": 320, "height": 180}
    path = home / "annotations/declared.jsonl"
    path.write_text(json.dumps(declared) + "\n")
    hidden = (home / "clips").rename(home / "hidden")
    index = build_index([path], home / "index", template.tokenizer, BUDGET, provisional=True)
    assert index.kind_counts == {"provisional": 1}
    hidden.rename(home / "clips")
    wanted = encode_example(index.example(0), template, BUDGET)
    example = index.encoded_example(0, template, MediaFiles())
    np.testing.assert_array_equal(example.encoded.tokens, wanted.encoded.tokens)
    spare = index.tokens[0] - example.tokens
    assert 0 <= spare <= 60
    declared[0]["content"][0]["duration"] = 12.0
    path.write_text(json.dumps(declared) + "\n")
    short = build_index([path], home / "short", template.tokenizer, BUDGET, provisional=True)
    with pytest.raises(ExampleError, match=r"declared\.jsonl line 1: takes .* set aside"):
        short.encoded_example(0, template, MediaFiles())


def test_captions_come_after_all_frames(home, template):
    index = build_index(
        annotations(home)[2:], home / "index", template.tokenizer, BUDGET, form="caption"
    )
    example = index.encoded_example(0, template, MediaFiles())
    words = [w[2] for w in NARRATION[1]["content"][0]["text_stream"]]
    answer = template.tokenizer.decode(example.encoded.tokens[example.encoded.supervised].tolist())
    assert answer == " ".join(words)
    special = template.tokenizer.special
    assert len(example.media) == len(example.encoded.grids) == 1
    assert (
        np.flatnonzero(example.encoded.supervised)[0]
        > np.flatnonzero(example.encoded.tokens == special.video_pad)[-1]
    )
    info = MediaFiles().video_info(VideoClip(str(home / "clips/bbb_espeak_narration_30s.mp4")))
    assert len(example.frame_times_us) == 60 == 2 * round(info.frame_times_us[-1] / 1e6)
