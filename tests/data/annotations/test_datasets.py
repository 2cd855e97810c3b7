"""Annotation files as datasets: they are read back as written, without TensorFlow."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.media_slice import load_patches
from livecc_jax.data.index.build import build_index
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import DataError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate

ROOT = Path(__file__).parents[3]
BUDGET = PixelBudget.parse(12)


@pytest.fixture
def home(tmp_path):
    """Clips and annotations, one of them broken."""
    home = tmp_path / "home"
    shutil.copytree(ROOT / "data/annotations", home / "annotations")
    (home / "clips").mkdir()
    for name in ("bbb_espeak_narration_30s.mp4", "bikes.mp4", "frame.png"):
        shutil.copy(ROOT / "data/clips" / name, home / "clips")
    line = json.loads((home / "annotations/narration.jsonl").read_text().splitlines()[0])
    line[0]["content"][0]["video"] = "gone.mp4"
    (home / "annotations/broken.jsonl").write_text(json.dumps(line) + "\n")
    return home


@pytest.mark.parametrize("frames", [False, True])
def test_a_dataset_is_indexed_like_its_annotations(home, small_tokenizer, frames, capsys):
    files = [home / f"annotations/{name}.jsonl" for name in ("windows", "qa", "broken")]
    out = home / "tfds"
    stored = ["--frames", "12"] if frames else []
    assert main(["dataset", *map(str, files), "--out", str(out), *stored]) == 0
    output = capsys.readouterr()
    folder = out / "streaming_clips/1.0.0"
    assert str(folder) in output.out
    assert ("gone.mp4" in output.err) == frames  # without frames, videos are not opened
    assert main(["dataset", str(files[0]), "--out", str(out), *stored]) == 2
    assert "exists already" in capsys.readouterr().err

    tokenizer = open_tokenizer(small_tokenizer)
    plain = build_index(files[:2], home / "plain", tokenizer, BUDGET)
    index = build_index([out], home / "index", tokenizer, BUDGET)
    template, reader = ChatTemplate(tokenizer), MediaFiles()
    assert len(index) == len(plain) == 7
    rows = RowSource(str(home / "index"), str(small_tokenizer), 1024, 48, 256, "mrope", "token", 1, 1)
    assert [rows.row(r)[1] for r in range(len(rows))] == [[]] * len(rows)
    if frames:  # of streaming clips
        (home / "clips/bbb_espeak_narration_30s.mp4").unlink()
    for i in range(3 if frames else 7):
        example = index.encoded_example(i, template, reader)
        np.testing.assert_array_equal(example.frame_times_us, plain.record(i).frame_times_us)
        assert (index.tokens[i], index.targets[i]) == (plain.tokens[i], plain.targets[i])
        for media in example.media:
            assert load_patches(media, reader).std() > 0
    assert "tensorflow" not in sys.modules


def test_stored_frames_are_those_of_the_video(home, small_tokenizer, monkeypatch):
    """Up to JPEG: mean error under 3 of 255. A rewritten dataset is noticed."""
    import tensorflow_datasets as tfds

    from livecc_jax.data.examples.tfds_builder import StoredFrameOptions, write_dataset

    path = home / "annotations/narration.jsonl"
    options = StoredFrameOptions(BUDGET, quality=95)
    folder, rejected = write_dataset([path], home / "tfds", frames=options)
    assert rejected == []
    tokenizer = open_tokenizer(small_tokenizer)
    plain = build_index([path], home / "plain", tokenizer, BUDGET)
    index = build_index([folder], home / "index", tokenizer, BUDGET)
    template = ChatTemplate(tokenizer)
    original, stored = (
        load_patches(i.encoded_example(0, template, MediaFiles()).media[0]) for i in (plain, index)
    )
    assert np.abs(original.astype(int) - stored).mean() < 3
    # It is a dataset like any other.
    record = tfds.data_source("streaming_clips", split="train", data_dir=str(home / "tfds"))[0]
    assert record["title"] == b"Big Buck Bunny"
    assert len(record["frames"]) == len(record["frame_times_us"]) == 60
    assert record["frames"][0].shape == (int(record["height"]), int(record["width"]), 3)
    assert record["words"]["text"][:3] == [b"A", b"big", b"rabbit"]

    shutil.rmtree(folder)
    other = home / "annotations/windows.jsonl"
    write_dataset([other], home / "tfds", frames=options)
    with pytest.raises(MediaError, match="has changed since it was indexed"):
        index.encoded_example(0, template, MediaFiles())
    features = (folder / "features.json").read_text()
    (folder / "features.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a dataset"):
        build_index([folder], home / "again", tokenizer, BUDGET)
    # A dataset may name any class; its module is not imported.
    monkeypatch.syspath_prepend(home)
    (home / "hostile.py").write_text("raise SystemExit('code of a dataset ran')\n")
    text = '"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"'
    for hostile in (
        '"pythonClassName": "hostile.Text"',
        '"python_class_name": "hostile.Text"',
        '"type": "hostile.Text"',
        '"type": "tensorflow_datasets.core.features.features_dict.FeaturesDict", '
        '"proto_cls": "tensorflow_datasets.FeaturesDict", "content": "{}"',
        '"pythonClassName": "os.Text"',
    ):
        (folder / "features.json").write_text(features.replace(text, hostile, 1))
        with pytest.raises(DataError, match="only those that"):
            build_index([folder], home / "hostile-index", tokenizer, BUDGET)
    assert "hostile" not in sys.modules
    (folder / "features.json").write_text(features)
    assert len(build_index([folder], home / "again", tokenizer, BUDGET)) == 3
