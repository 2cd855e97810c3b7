"""Tests that conversion and training copy no file that a link in a checkpoint folder leads to."""

import shutil

import pytest

from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import SETTINGS_FILES, export_hf
from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.errors import CheckpointError, TokenizerError
from livecc_jax.text.files import COMPANIONS, TOKENIZER_FILES
from tests.support.checkpoints import random_params, tiny_config

NAMES = sorted({"config.json", "model.safetensors", *TOKENIZER_FILES, *COMPANIONS, *SETTINGS_FILES})


@pytest.fixture
def source(tmp_path, tokenizer):
    """A checkpoint with its tokenizer."""
    config = tiny_config()
    export_hf(tmp_path / "source", config, LiveCCBlock(), random_params(config), tokenizer)
    return tmp_path / "source"


@pytest.mark.parametrize("name", NAMES)
def test_no_link_out_of_the_folder_is_followed(tmp_path, source, name):
    elsewhere = tmp_path / "elsewhere"
    if (source / name).exists():
        (source / name).rename(elsewhere)
    else:
        elsewhere.write_text("{}")
    (source / name).symlink_to(elsewhere)
    for layout in ("hf", "orbax"):
        with pytest.raises(CheckpointError, match=f"{name}: is a link that leaves its directory"):
            convert(source, tmp_path / "copy", layout)
        assert not (tmp_path / "copy").exists()


def test_links_within_the_folder_and_of_the_huggingface_cache_are_followed(tmp_path, source):
    (source / "generation_config.json").rename(source / "real.json")
    (source / "generation_config.json").symlink_to("real.json")
    convert(source, tmp_path / "copy")
    snapshot, blobs = tmp_path / "hub/snapshots/main", tmp_path / "hub/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in source.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    convert(snapshot, tmp_path / "cached")
    for name in ("model.safetensors", "tokenizer.json", "generation_config.json"):
        copies = [(tmp_path / copy / name).read_bytes() for copy in ("copy", "cached")]
        assert copies == [(source / name).read_bytes()] * 2
    assert not (tmp_path / "cached/tokenizer.json").is_symlink()


def test_a_run_copies_no_such_file_of_its_tokenizer(tmp_path, tokenizer):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "vocab.json").symlink_to(tmp_path / "secret")  # in the tokenizer's own folder
    (tmp_path / "merges.txt").symlink_to("/etc/hostname")
    with pytest.raises(TokenizerError, match=r"merges\.txt: is a link that leaves its directory"):
        RunDirectory(tmp_path / "run").create(tiny_config(), LiveCCBlock(), tokenizer, {})
    assert not (tmp_path / "run/config.json").exists()
