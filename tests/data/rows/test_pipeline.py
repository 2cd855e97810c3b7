"""From annotation files to packed rows, on real clips."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.encode import encode_example
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.reader import Index
from livecc_jax.data.rows.pipeline import RowSource, batches, count_steps
from livecc_jax.data.rows.quarantine import Quarantine
from livecc_jax.errors import ConfigError, DataError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patchify, resize
from livecc_jax.media.video import probe, read_frames
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.positions import token_positions
from tests.support.rows import Segment, pack

ROOT = Path(__file__).parents[3]
FILES = [ROOT / f"data/annotations/{name}.jsonl" for name in ("windows", "qa", "narration")]
BUDGET = PixelBudget.parse(24)


@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(ROOT / "data/tokenizer")


@pytest.fixture(scope="module")
def index(tokenizer, tmp_path_factory):
    return build_index(FILES, tmp_path_factory.mktemp("index") / "index", tokenizer, BUDGET)


def source(index, **changes):
    settings = {
        "tokenizer_path": str(ROOT / "data/tokenizer"), "tokens": 1536, "windows": 48, "targets": 256,
        "positions": "mrope", "weighting": "token", "seed": 1, "epochs": 2,
    }  # fmt: skip
    return RowSource(str(index.path), **(settings | changes))


@pytest.mark.parametrize("weighting", ["token", "example"])
@pytest.mark.parametrize("mode", ["mrope", "sequential", "hybrid"])
def test_a_row_holds_its_examples_one_after_the_other(index, tokenizer, mode, weighting):
    """Field by field against the slow packer of the tests, which shares no code with this one."""
    rows = source(index, positions=mode, weighting=weighting)
    template = ChatTemplate(tokenizer)
    shared = next(i for i in range(len(rows)) if len(rows.packing.row(i)) > 1)
    built, failed = rows.row(shared)
    assert failed == []
    segments = []
    for number in rows.packing.row(shared):
        example = encode_example(index.example(number), template, BUDGET)
        encoded = example.encoded
        positions, _ = token_positions(encoded.tokens, encoded.grids, tokenizer.special, mode)
        videos = []
        for media in example.media:
            patches = media.load_patches()
            videos.append((patches, *media.rows_cols))
        segments.append(Segment(encoded.tokens, encoded.supervised, positions, videos))
    video_pad = tokenizer.special.video_pad
    expected = pack(segments, 1536, 48, index.window, 256, weighting, video_pad)
    for name, value in expected.items():
        np.testing.assert_array_equal(built[name], value[0], err_msg=name)
        assert built[name].dtype == value.dtype


def test_patches_are_the_frames_of_their_second(index, tokenizer):
    """The tokens of a turn refer to the patches of the frames that its label names."""
    file = AnnotationFile(FILES[2])
    example = encode_example(file[0], ChatTemplate(tokenizer), BUDGET)
    rows = source(index, epochs=1)
    number = next(i for i in range(len(index)) if "narration" in index.location(i)[0])
    r = next(i for i in range(len(rows)) if number in rows.packing.row(i))
    built, _ = rows.row(r)
    segment = 1 + rows.packing.row(r).index(number)
    merged = built["patches"].reshape(-1, 4, 1176)
    info = probe(ROOT / "data/clips/bbb_espeak_narration_30s.mp4")
    tokens = np.flatnonzero((built["segment_ids"] == segment) & (built["vision_index"] >= 0))
    patches = merged[built["vision_index"][tokens]].reshape(-1, 1176)
    times = example.frame_times_us
    assert np.all(np.abs(times - (41_667 + 500_000 * np.arange(len(times)))) <= 41_667)
    frames = read_frames(info, np.searchsorted(info.frame_times_us, times))
    expected, _ = patchify(resize(frames, (example.media[0].height, example.media[0].width)))
    np.testing.assert_array_equal(patches, expected)


def test_rows_do_not_depend_on_the_number_of_processes(tokenizer, tmp_path):
    """One process, two processes and a later start give the same rows in the same order."""
    small = build_index(FILES[:1], tmp_path / "index", tokenizer, PixelBudget.parse(8))
    rows = source(small, tokens=512, windows=24, epochs=3)
    assert len(rows) == 9
    steps = count_steps(rows, 4)
    assert steps * 4 >= len(rows) > (steps - 1) * 4

    def run(**changes):
        settings = {"first_step": 0, "steps": steps, "rows_per_step": 4, "accumulate": 2} | changes
        return [b.rows for b in batches(rows, **settings)]

    one_process = run()
    last = one_process[-1]["segment_ids"].reshape(4, -1)
    assert [bool(x.any()) for x in last] == [i < len(rows) - 4 * (steps - 1) for i in range(4)]
    two_processes = [run(process=p, processes=2) for p in (0, 1)]
    for step, rows_of_step in enumerate(one_process):
        for name, value in rows_of_step.items():
            # Each process holds its share of both micro-batches.
            both = np.stack([h[step][name] for h in two_processes]).reshape(2, 2, 1, *value.shape[1:])
            np.testing.assert_array_equal(both.swapaxes(0, 1).reshape(value.shape), value)
    for a, b in zip(one_process[1:], run(first_step=1), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    with pytest.raises(ConfigError, match=r"data\.rows_per_step 4 does not divide"):
        run(processes=3)


def test_a_failure_in_one_epoch_is_repeated(tokenizer, tmp_path):
    """A clip that is missing for a while is later left out of the same rows, and of no others."""
    clip = tmp_path / "clip.mp4"  # of the first example alone
    shutil.copy(ROOT / "data/clips/bbb_espeak_narration_30s.mp4", clip)
    first, *others = FILES[0].read_text().splitlines()[:-1]
    lines = [first.replace("../clips/bbb_espeak_narration_30s.mp4", str(clip)), *others]
    text = "\n".join(lines).replace("../clips", str(ROOT / "data/clips"))
    (tmp_path / "a.jsonl").write_text(text + "\n")
    small = build_index([tmp_path / "a.jsonl"], tmp_path / "index", tokenizer, PixelBudget.parse(8))
    rows = source(small, tokens=512, windows=24, epochs=2)
    holding = [i for i in range(len(rows)) if 0 in rows.packing.row(i)]
    assert len(holding) == 2
    clip.rename(tmp_path / "hidden.mp4")
    without, failed = rows.row(holding[0])
    (tmp_path / "hidden.mp4").rename(clip)
    assert [(q.example, q.row) for q in failed] == [(0, holding[0])]
    Quarantine(failed).save(tmp_path / "quarantine.jsonl")
    listed = Quarantine.load(tmp_path / "quarantine.jsonl")
    again = dataclasses.replace(rows, quarantined=listed.excluded)
    for i, expected in zip(holding, (without, rows.row(holding[1])[0]), strict=True):
        row, failed = again.row(i)
        assert failed == []
        for name in row:
            np.testing.assert_array_equal(row[name], expected[name])
    # An entry without a row applies to every row.
    everywhere = Quarantine.from_json([{"example": 0, "annotations": "", "line": 1, "reason": ""}], "")
    never = dataclasses.replace(rows, quarantined=everywhere.excluded)
    assert never.row(holding[1])[0]["segment_ids"].max() < row["segment_ids"].max()


def test_the_index_records_the_sizes_of_examples(index, tokenizer, tmp_path):
    assert len(index) == 8
    assert index.rejected == {}
    for i in range(len(index)):
        example = encode_example(index.example(i), ChatTemplate(tokenizer), BUDGET)
        record = index.record(i)
        assert (record.tokens, record.targets) == (example.tokens, example.targets)
        assert record.windows == example.windows(index.window)
    copy = tmp_path / "copy"
    shutil.copytree(index.path, copy)
    assert Index(copy).digest == index.digest
    tokens = np.load(copy / "tokens.npy")
    np.save(copy / "tokens.npy", tokens[:-1])
    with pytest.raises(DataError, match=r"tokens\.npy: does not hold 8 records"):
        Index(copy)
    (copy / "tokens.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"tokens\.npy: cannot be read"):
        Index(copy)
    with pytest.raises(DataError, match="exists already"):
        build_index(FILES, copy, tokenizer, BUDGET)


def test_unusable_examples_are_rejected_with_their_reason(tokenizer, tmp_path):
    """Silent, short and missing clips are listed; usable ones are indexed."""
    clip = str(ROOT / "data/clips/bbb_oddsize_317x179_derived.mp4")

    def line(words, **video):
        video = {"type": "video", "video": clip} | video
        user = {"role": "user", "content": [video, {"type": "text", "text": ""}]}
        stream = {"type": "text_stream", "text_stream": words}
        return json.dumps([user, {"role": "assistant", "content": [stream]}])

    good = line([[0.5, 1.0, "hello"]])
    bad = {
        "nothing is said": line([]),
        "needs at least 6": line([[0.1, 0.2, "a"]], video_end=1.5),
        "there is no frame": line([[0.1, 0.2, "a"]], video_start=60, video_end=70),
        "runs backwards": line([[1, 2, "a"], [0, 0.5, "b"]]),
        "cannot be read": line([[0.1, 0.2, "a"]], video="gone.mp4"),
        "must be": json.dumps([{"role": "user", "content": 3}]),
    }
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([good, *bad.values()]) + "\n")
    index = build_index([path], tmp_path / "index", tokenizer, BUDGET)
    assert len(index) == 1
    listed = [json.loads(x) for x in (tmp_path / "index/rejected.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in listed] == [2, 3, 4, 5, 6, 7]
    for entry, reason in zip(listed, bad, strict=True):
        assert reason in entry["reason"]
    assert sum(index.rejected.values()) == len(bad)
    path.write_text("\n".join(bad.values()) + "\n")
    with pytest.raises(DataError, match=r"none of 6 examples is usable"):
        build_index([path], tmp_path / "none", tokenizer, BUDGET)
    assert not (tmp_path / "none").exists()
