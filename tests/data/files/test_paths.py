"""Tests that an index stores and finds the file that was indexed, whatever links lead to it."""

import json
import os

import pytest

from livecc_jax.data.files.paths import absolute_path, common_root, relative_to_root, resolve
from livecc_jax.data.index.build import build_index
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from tests.support.media import make_video


@pytest.fixture
def tree(tmp_path):
    """A link to a folder elsewhere, beside whose target, and beside which, lie files of one name."""
    for name in ("data/sub", "store/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/link").symlink_to(tmp_path / "store/deep")
    for name in ("data/a.mp4", "store/a.mp4", "data/sub/a.mp4"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "path", ["link/../a.mp4", "sub/../a.mp4", "./sub//a.mp4", "sub/../link/../a.mp4", "../data/a.mp4"]
)
def test_a_path_leads_to_the_same_file_when_indexing_and_when_training(tree, path):
    folder = str(tree / "data")
    opened = os.path.join(folder, path)
    root = common_root([folder])
    stored = resolve(relative_to_root(opened, folder, root), root)
    assert os.path.samefile(stored, opened)
    assert ".." not in absolute_path(opened).split("/")
    assert os.path.samefile(absolute_path(opened), opened)


def test_links_stay_where_nothing_goes_back_over_them(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert absolute_path("data/link/b.mp4") == str(tree / "data/link/b.mp4")
    assert absolute_path("no/../such/./b.mp4") == str(tree / "such/b.mp4")


def test_an_index_shows_the_video_that_was_indexed(tree, small_tokenizer):
    make_video(tree / "store/a.mp4", range(0, 8000, 100))
    make_video(tree / "data/a.mp4", range(0, 8000, 250))  # the wrong one
    words = [[i * 0.5, i * 0.5 + 0.1, f"w{i}"] for i in range(15)]
    conversation = [
        {"role": "user", "content": [{"type": "video", "video": "link/../a.mp4"}]},
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": words}]},
    ]
    (tree / "data/notes.jsonl").write_text(json.dumps(conversation) + "\n")
    tokenizer = open_tokenizer(small_tokenizer)
    budget = PixelBudget.parse("64")
    index = build_index([tree / "data/notes.jsonl"], tree / "data/link/../index", tokenizer, budget)
    (media,) = index._media(0)
    assert os.path.samefile(media.source.path, tree / "store/a.mp4")
