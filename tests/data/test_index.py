"""The index: rows from it alone, moved with its data, true to its files, made at any scale."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from livecc_jax.data.examples import media_files
from livecc_jax.data.examples.example import plan_example
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.files.timestamps import Timestamps
from livecc_jax.data.index.build import Index, build_index
from livecc_jax.data.index.columns import COLUMNS
from livecc_jax.errors import DataError, ExampleError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Clip

ROOT = Path(__file__).parents[2]
CLIPS, ANNOTATIONS = ROOT / "data/clips", ROOT / "data/annotations"
BUDGET = PixelBudget.parse(12)
NARRATION = json.loads((ANNOTATIONS / "narration.jsonl").read_text().splitlines()[0])


@pytest.fixture(scope="module")
def template(small_tokenizer):
    return ChatTemplate(open_tokenizer(small_tokenizer))


@pytest.fixture
def home(tmp_path):
    """Clips and annotations that may be changed and moved."""
    home = tmp_path / "home"
    (home / "clips").mkdir(parents=True)
    for name in ("bbb_espeak_narration_30s.mp4", "bikes.mp4", "frame.png"):
        shutil.copy(CLIPS / name, home / "clips")
    shutil.copytree(ANNOTATIONS, home / "annotations")
    return home


def annotations(home):
    return [home / f"annotations/{name}.jsonl" for name in ("windows", "qa", "narration")]


def same(a, b):
    """Whether two indexes hold the same (times of change of copied files aside)."""
    for name in COLUMNS:
        np.testing.assert_array_equal(np.load(a / f"{name}.npy"), np.load(b / f"{name}.npy"), name)
    assert (a / "rejected.jsonl").read_bytes() == (b / "rejected.jsonl").read_bytes()
    assert Index(a).digest == Index(b).digest


def test_examples_come_from_the_index_alone(home, template):
    """Token for token and pixel for pixel what the annotations say, without reading them again."""
    index = build_index(annotations(home), home / "index", template.tokenizer, BUDGET, row_tokens=300)
    assert index.pieces
    assert index.kinds == {"streaming": index.pieces, "conversations": 4}
    wanted = [plan_example(index.example(i), template, BUDGET) for i in range(len(index))]
    for path in annotations(home):
        path.unlink()
    index, files = Index(home / "index"), MediaFiles()
    for i, plan in enumerate(wanted):
        made = index.plan(i, template, files)
        for name in ("tokens", "supervised", "grids", "turns"):
            np.testing.assert_array_equal(getattr(made.encoded, name), getattr(plan.encoded, name))
        assert made.turns == plan.turns
        assert made.windows(index.window) == plan.windows(index.window) == index.windows[i]
        np.testing.assert_array_equal(made.frame_times_us, plan.frame_times_us)
        np.testing.assert_array_equal(index.entry(i).frame_times_us, plan.frame_times_us)
        for a, b in zip(made.media, plan.media, strict=True):
            np.testing.assert_array_equal(a.load(files), b.load())


def test_index_and_data_can_be_moved(home, template, tmp_path):
    index = build_index(annotations(home), home / "index", template.tokenizer, BUDGET)
    away = tmp_path / "far/away"
    away.parent.mkdir()
    shutil.copytree(home, away)  # other times of change
    shutil.rmtree(home)
    for moved in (Index(away / "index"), Index(away / "index", root=str(away / "annotations"))):
        assert moved.where(0)[0] == str(away / "annotations/windows.jsonl")
        for i in range(len(moved)):
            assert moved.plan(i, template, MediaFiles()).tokens == index.tokens[i]
    # The index alone, away from its data.
    (away / "index").rename(tmp_path / "index")
    alone = Index(tmp_path / "index", root=str(away / "annotations"))
    assert alone.plan(0, template, MediaFiles()).tokens == index.tokens[0]
    with pytest.raises(MediaError, match=r"bbb_espeak_narration_30s\.mp4: cannot be read"):
        Index(tmp_path / "index").plan(0, template, MediaFiles())


def test_a_file_that_changed_is_told(home, template, monkeypatch):
    index = build_index(annotations(home)[:2], home / "index", template.tokenizer, BUDGET)
    clip, image = home / "clips/bbb_espeak_narration_30s.mp4", home / "clips/frame.png"
    number = next(i for i in range(len(index)) if index.where(i) == (str(annotations(home)[1]), 2))
    reads = []
    probe = media_files.probe
    monkeypatch.setattr(media_files, "probe", lambda path: reads.append(path) or probe(path))
    files = MediaFiles()
    index.plan(0, template, files)
    assert reads == []  # the same time of change: not even demuxed
    os.utime(clip, ns=(1, 1))
    index.plan(0, template, files)
    index.plan(1, template, files)
    assert len(reads) == 1  # a copy: demuxed once
    whole = clip.read_bytes()
    clip.write_bytes((CLIPS / "bikes.mp4").read_bytes().ljust(len(whole), b"\0")[: len(whole)])
    with pytest.raises(MediaError, match=r"30s\.mp4: has changed since .* its timestamps are others"):
        index.plan(0, template, files)
    clip.write_bytes(whole[:-9])
    with pytest.raises(MediaError, match=rf"it had {len(whole)} bytes and has {len(whole) - 9}"):
        index.plan(0, template, files)
    index.plan(number, template, files)
    picture = bytearray(image.read_bytes())
    picture[-20] ^= 1
    image.write_bytes(picture)
    with pytest.raises(MediaError, match=r"frame\.png"):
        index.plan(number, template, files)


def test_a_video_is_demuxed_once(home, template, tmp_path, monkeypatch):
    """Whatever number of clips, pieces and indexes are made of it; errors are kept too."""
    reads = []
    probe = media_files.probe
    monkeypatch.setattr(media_files, "probe", lambda path: reads.append(path) or probe(path))
    monkeypatch.setattr(media_files, "KEPT", 1)
    (home / "clips/broken.mp4").write_bytes(b"no video" * 99)
    path = home / "annotations/all.jsonl"
    line = json.dumps(NARRATION)
    broken = line.replace("bbb_espeak_narration_30s", "broken")
    path.write_text("\n".join([line, line, broken, broken, line]) + "\n")
    kept = tmp_path / "timestamps.sqlite"
    for budget in ("12", "24"):
        made = build_index(
            [path, *annotations(home)], tmp_path / budget, template.tokenizer,
            PixelBudget.parse(budget), timestamps=kept, row_tokens=400,
        )  # fmt: skip
        assert made.rejected == {"MediaError": 2}
        assert list(made.reasons) == ["is not a readable video _"]
    assert sorted(Path(r).name for r in reads) == [
        "bbb_espeak_narration_30s.mp4", "bikes.mp4", "broken.mp4",
    ]  # fmt: skip
    with pytest.raises(DataError, match="cannot keep timestamps"):
        Timestamps(home / "clips/bikes.mp4")


def test_annotations_in_a_bucket(home, template):
    """The same index from a store as from disk; what it lacks or does wrong is one sentence."""
    store = fsspec.filesystem("memory")
    text = annotations(home)[1].read_text().replace("../clips", str(home / "clips"))
    lines = [*text.splitlines()[:-1], json.dumps(NARRATION).replace("../clips", str(home / "clips"))]
    (home / "all.jsonl").write_text("\n".join(lines) + "\n")
    store.pipe("/corpus/all.jsonl", (home / "all.jsonl").read_bytes())
    local = build_index([home / "all.jsonl"], home / "a", template.tokenizer, BUDGET, root="/")
    remote = build_index(["memory://corpus/all.jsonl"], home / "b", template.tokenizer, BUDGET)
    assert remote.where(0) == ("memory://corpus/all.jsonl", 1)
    for i in range(len(local)):
        a, b = (x.plan(i, template, MediaFiles()) for x in (local, remote))
        np.testing.assert_array_equal(a.encoded.tokens, b.encoded.tokens)
    with pytest.raises(DataError, match=r"memory://corpus/gone\.jsonl: cannot be read"):
        build_index(["memory://corpus/gone.jsonl"], home / "c", template.tokenizer, BUDGET)


def test_provisional_entries_need_no_files(home, template):
    """Rows have room for what the file turns out to be; a file that is longer than was said is told."""
    said = json.loads(json.dumps(NARRATION))
    said[0]["content"][0] |= {"duration": 30.0, "width": 320, "height": 180}
    path = home / "annotations/said.jsonl"
    path.write_text(json.dumps(said) + "\n")
    hidden = (home / "clips").rename(home / "hidden")
    index = build_index([path], home / "index", template.tokenizer, BUDGET, provisional=True)
    assert index.kinds == {"provisional": 1}
    hidden.rename(home / "clips")
    wanted = plan_example(index.example(0), template, BUDGET)
    plan = index.plan(0, template, MediaFiles())
    np.testing.assert_array_equal(plan.encoded.tokens, wanted.encoded.tokens)
    spare = index.tokens[0] - plan.tokens
    assert 0 <= spare <= 60
    said[0]["content"][0]["duration"] = 12.0
    path.write_text(json.dumps(said) + "\n")
    short = build_index([path], home / "short", template.tokenizer, BUDGET, provisional=True)
    with pytest.raises(ExampleError, match=r"said\.jsonl line 1: takes .* set aside"):
        short.plan(0, template, MediaFiles())


def test_captions_come_after_all_frames(home, template):
    index = build_index(
        annotations(home)[2:], home / "index", template.tokenizer, BUDGET, form="caption"
    )
    plan = index.plan(0, template, MediaFiles())
    words = [w[2] for w in NARRATION[1]["content"][0]["text_stream"]]
    said = template.tokenizer.decode(plan.encoded.tokens[plan.encoded.supervised].tolist())
    assert said == " ".join(words)
    special = template.tokenizer.special
    assert len(plan.media) == len(plan.encoded.grids) == 1
    assert (
        np.flatnonzero(plan.encoded.supervised)[0]
        > np.flatnonzero(plan.encoded.tokens == special.video_pad)[-1]
    )
    whole = MediaFiles().video(Clip(str(home / "clips/bbb_espeak_narration_30s.mp4")))
    assert len(plan.frame_times_us) == 60 == 2 * round(whole.frame_times_us[-1] / 1e6)


CHILD = """
import signal
import sys
from livecc_jax.data import index
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.tokenizer import open_tokenizer
index.STRETCH = 4

def report(done, total):
    print(done, flush=True)
    if done >= 12:
        signal.pause()  # until it is killed: a busy machine must not let it finish first

if __name__ == "__main__":
    index.build_index(
        sys.argv[3:], sys.argv[1], open_tokenizer(sys.argv[2]), PixelBudget.parse("12"), workers=2,
        progress=report,
    )
"""


def test_a_killed_build_goes_on(home, template, small_tokenizer, tmp_path, monkeypatch):
    """SIGKILL in the middle, then again: what was done is not done twice, and the index is the same."""
    path = home / "annotations/many.jsonl"
    lines = [json.dumps(NARRATION), '[{"role": "user", "content": 3}]'] * 24
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("livecc_jax.data.index.build.STRETCH", 4)
    build_index([path], tmp_path / "straight", template.tokenizer, BUDGET)
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, tmp_path / "child.py", tmp_path / "index", small_tokenizer, path]
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    done = [int(child.stdout.readline()) for _ in range(3)]
    workers = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(child.pid)], capture_output=True, text=True
    ).stdout.split()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert done == [4, 8, 12]
    assert not (tmp_path / "index").exists()
    reports = []
    build_index(
        [path], tmp_path / "index", template.tokenizer, BUDGET,
        progress=lambda done, total: reports.append(done),
    )  # fmt: skip
    assert reports[0] >= 12
    assert reports[-1] == len(lines)
    same(tmp_path / "straight", tmp_path / "index")
    index = Index(tmp_path / "index")  # of twelve stretches
    for i in (0, 1, len(index) // 2, len(index) - 1):
        assert index.plan(i, template, MediaFiles()).tokens == index.tokens[i]
        assert index.where(i)[1] == 2 * i + 1
    assert not list(tmp_path.glob(".*partial"))
    # Its workers ended with it.
    for _ in range(50):
        if not any(Path(f"/proc/{w}").exists() for w in workers):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"workers {workers} are still there")
