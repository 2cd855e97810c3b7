"""`livecc inspect` of packed rows: sizes, frames, and how fast rows are built."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.data.inspect.contact_sheet import row_pictures
from livecc_jax.data.inspect.row import inspect_row
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import DataError
from livecc_jax.media.pixels import resize
from livecc_jax.media.video import read_frames

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def index(tmp_path_factory, small_tokenizer):
    out = tmp_path_factory.mktemp("sheet") / "index"
    files = [str(ROOT / f"data/annotations/{name}.jsonl") for name in ("windows", "qa")]
    argv = ["index", *files, "--out", str(out), "--tokenizer", str(small_tokenizer)]
    assert main([*argv, "--pixel-budget", "16", "--workers", "0"]) == 0
    return out


def test_pictures_of_a_row_show_its_frames(index, small_tokenizer):
    source = RowSource(str(index), str(small_tokenizer), 2048, 99, 512, "mrope", "token", 1, 1)
    inspected = inspect_row(source, 0)
    pictures = row_pictures(inspected.row)
    expected = []
    for _, example in inspected.segments:
        for media in example.media:
            if len(media.indices):
                frames = read_frames(media.source, media.indices)
                expected += list(resize(frames, (media.height, media.width))[1::2])
            else:
                expected.append(None)
    assert len(pictures) == len(expected) > 10
    for picture, frame in zip(pictures, expected, strict=True):
        if frame is not None:
            np.testing.assert_array_equal(picture, frame)
    with pytest.raises(DataError, match="there is no row 9999"):
        inspect_row(source, 9999)


def test_inspect_a_row_and_its_speed(index, small_tokenizer, tmp_path, capsys):
    options = ["--tokenizer", str(small_tokenizer), "--row-tokens", "2048", "--seed", "1"]
    sheet = tmp_path / "row.png"
    more = ["--row", "0", "--sheet", str(sheet), "--npz", str(tmp_path / "row.npz")]
    assert main(["inspect", str(index), *more, *options]) == 0
    output = capsys.readouterr().out
    segments = re.findall(r"^ +(\d+) +\d+ +(\d+) +(\d+) +(\d+) ", output, re.M)
    arrays = np.load(tmp_path / "row.npz")
    assert len(segments) == arrays["segment_ids"].max() > 1
    used = [sum(int(s[i]) for s in segments) for i in (1, 2, 3)]
    assert used[0] == np.count_nonzero(arrays["segment_ids"])
    assert used[1] == np.count_nonzero(arrays["target_weights"])
    assert f"tokens {used[0]} of 2048 ({used[0] / 2048:.1%}), windows {used[2]} of 64" in output
    picture = cv2.imread(str(sheet))
    assert picture.shape[1] > 1000
    assert picture.shape[0] > 100 * len(segments)
    assert main(["inspect", str(index), "--throughput", "0.5", "--threads", "2", *options]) == 0
    output = capsys.readouterr().out
    shares = dict(re.findall(r"([a-z ]+) (\d+)%", output.splitlines()[-1].split(":")[1]))
    assert 97 <= sum(map(int, shares.values())) <= 103
    assert int(shares[" decode"]) > 10
    assert main(["inspect", str(index), "--throughput", "nan", *options]) == 2
    assert main(["inspect", str(index), *options]) == 2
    assert "is an index; show a row with --row R" in capsys.readouterr().err
    assert main(["inspect", str(index), "--sheet", str(sheet), *options]) == 2
    assert "give --row R too" in capsys.readouterr().err
