"""Tests that a changed byte of a step is noticed, whichever file it is in."""

import dataclasses
import json
import random
import shutil
import zlib

import jax
import numpy as np
import pytest

from livecc_jax.checkpoints.checksums import CHECKSUMS
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.run import ITEMS, RunDirectory
from livecc_jax.cli import main
from livecc_jax.errors import CheckpointError
from tests.support.checkpoints import assert_bits_equal, random_params, tiny_config

TINY = tiny_config()
CONFIG = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=640))
OPT_STATE = {"mu": np.arange(9, dtype=np.float32)}


def write_run(path, asynchronous=True):
    """Writes a run with one step."""
    with RunDirectory(path, asynchronous=asynchronous) as run:
        run.create(CONFIG, LiveCCBlock(), None, {})
        run.save(1, random_params(CONFIG), OPT_STATE, {"rows": 12345})
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with one step."""
    return write_run(tmp_path_factory.mktemp("checksums") / "run")


def restore(run):
    """Reads all items of the step."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), random_params(CONFIG))
    opt_state = {"mu": jax.ShapeDtypeStruct((9,), np.float32)}
    return RunDirectory(run).restore(1, abstract, opt_state)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_checksums_are_those_of_zlib(tmp_path, asynchronous):
    run = write_run(tmp_path / "run", asynchronous)
    for item in ITEMS:
        folder = run / "1" / item
        files = json.loads((folder / CHECKSUMS).read_text())["files"]
        for name, entry in files.items():
            data = (folder / name).read_bytes()
            assert entry == {"bytes": len(data), "crc32": [zlib.crc32(data)]}
        present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        unlisted = present - set(files)
        assert unlisted <= {CHECKSUMS, "commit_success.txt"}  # the second is Orbax's own mark
    assert open_checkpoint(run).check_files() == RunDirectory(run).check_files(1) >= 12


def test_every_changed_byte_is_noticed(run, tmp_path):
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    rng = random.Random(0)
    seen = set()
    for item in ITEMS:
        for file in sorted((damaged / "1" / item).rglob("*")):
            if not file.is_file() or file.name == "commit_success.txt":
                continue
            data = bytearray(file.read_bytes())
            at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
            file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            with pytest.raises(CheckpointError, match=rf"{damaged}/1"):
                restore(damaged)
            with pytest.raises(CheckpointError, match=rf"{damaged}/1"):
                RunDirectory(damaged).check_files(1)
            if item == "params":
                with pytest.raises(CheckpointError, match=f"{damaged}/1"):
                    open_checkpoint(damaged).load_params()
            file.write_bytes(data)
            seen.add(file)
    assert len(seen) == RunDirectory(damaged).check_files(1) + len(ITEMS)  # and the checksums' own
    file = next((damaged / "1/params").rglob("manifest.ocdbt"))
    file.rename(file.with_name("elsewhere"))
    with pytest.raises(CheckpointError, match=r"manifest.ocdbt is missing"):
        restore(damaged)


def test_a_step_of_an_earlier_version_opens(run, tmp_path):
    earlier = tmp_path / "run"
    shutil.copytree(run, earlier, ignore=shutil.ignore_patterns(CHECKSUMS))
    assert open_checkpoint(earlier).check_files() is None
    assert_bits_equal(restore(earlier)[0], random_params(CONFIG))
    assert_bits_equal(open_checkpoint(earlier).load_params(), random_params(CONFIG))


def test_verify_compares_checksums_first(run, tmp_path, small_tokenizer, capfd):
    """The command compares checksums of all items, also of those that it does not read."""
    for name in ("good", "bad"):
        shutil.copytree(run, tmp_path / name)
        shutil.copy(small_tokenizer / "tokenizer.model", tmp_path / name)
    file = next(p for p in (tmp_path / "bad/1/opt_state").rglob("manifest.ocdbt"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert main(["verify", str(tmp_path / "good"), str(tmp_path / "bad")]) == 2
    assert "bad/1: its opt_state cannot be read" in capfd.readouterr().err
