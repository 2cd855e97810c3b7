"""Whole runs: resuming is going straight through, and a bad clip costs its example and no more."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.errors import ConfigError, DataError
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import init_params
from livecc_jax.model.vocabulary import fit_vocabulary
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.text.open import open_tokenizer
from livecc_jax.train.loop import train
from tests.support.training import config, losses, params_of


def test_resumed_equals_straight_through(home, straight):
    """Interrupted in the middle of an epoch and again later: same rows, same losses, same weights."""
    assert len(straight) > 6
    assert straight[max(straight)][0] < straight[1][0]
    run = home / "interrupted"
    first = losses(config(home, run), stop_at=3)
    second = losses(config(home, run), stop_at=5)
    third = losses(config(home, run))
    assert list(first) == [1, 2, 3]
    assert list(second) == [3, 4, 5]
    assert list(third) == list(range(5, len(straight) + 1))
    assert {**first, **second, **third} == straight
    jax.tree.map(np.testing.assert_array_equal, params_of(home / "straight"), params_of(run))
    assert losses(config(home, run)) == {}  # it was finished


def test_resuming_refuses_other_rows(home, straight):
    data = config(home, home / "straight").data
    other = config(home, home / "straight", data=dataclasses.replace(data, tokens=2048), seed=4)
    with pytest.raises(ConfigError, match=r"another seed \(3 before, 4 now\), data\.tokens") as error:
        train(other)
    assert str(home / "straight") in str(error.value)


def test_a_bad_clip_is_left_out_and_the_run_repeats(home, straight):
    clip = home / "clips/fragile.mp4"
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) // 2])
    try:
        broken = losses(config(home, home / "broken"))
    finally:
        clip.write_bytes(whole)
    assert [b[2] for b in broken.values()][-1] == 1
    assert broken != straight
    listed = home / "broken/quarantine.jsonl"
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len({e["example"] for e in entries}) == 1
    assert len({e["row"] for e in entries}) == len(entries) > 1  # once an epoch
    entry = entries[0]
    assert entry["annotations"].endswith("train.jsonl")
    assert entry["line"] == 4
    assert str(clip.name) in entry["reason"]
    # The clip is whole again, but the list says to leave it out: the same run, bit for bit.
    data = dataclasses.replace(config(home, "").data, quarantine=str(listed))
    repeated = losses(config(home, home / "repeated", data=data))
    assert {k: v[:2] for k, v in repeated.items()} == {k: v[:2] for k, v in broken.items()}
    weights = params_of(home / "broken"), params_of(home / "repeated")
    jax.tree.map(np.testing.assert_array_equal, *weights)


def test_a_run_ends_when_nothing_can_be_read(home, straight, monkeypatch):
    """Not one clip but the disk is gone: better to stop than to train on nothing."""
    monkeypatch.setattr("livecc_jax.train.shared_quarantine.SOME_BAD", 1)
    shutil.move(home / "clips", home / "elsewhere")
    try:
        with pytest.raises(DataError, match=r"quarantine\.jsonl: \d of 4 examples cannot be used"):
            train(config(home, home / "nothing"))
    finally:
        shutil.move(home / "elsewhere", home / "clips")
    # What was listed is of use only with this index.
    listed = home / "nothing/quarantine.jsonl"
    entry = json.loads(listed.read_text().splitlines()[0])
    other = home / "other.jsonl"
    other.write_text(json.dumps(entry | {"line": 9}) + "\n")
    data = dataclasses.replace(config(home, "").data, quarantine=str(other))
    with pytest.raises(DataError, match=r"other\.jsonl: example \d .* is not that of this index"):
        train(config(home, home / "mismatch", data=data))


def test_another_mesh_goes_on_where_one_device_stopped(home, straight):
    """From one device to eight in the middle of the run: the same rows, the losses up to rounding."""
    data = dataclasses.replace(config(home, "").data, rows_per_step=4, epochs=6)
    settings = {"data": data, "max_steps": 4}
    alone = losses(config(home, home / "alone", **settings))
    run = home / "moved"
    losses(config(home, run, **settings), stop_at=3)
    mesh = MeshConfig(data=2, fsdp=2, context=1, tensor=2)
    moved = losses(config(home, run, mesh=mesh, **settings))
    assert list(moved) == [3, 4]
    for step, (loss, norm, _) in moved.items():
        np.testing.assert_allclose((loss, norm), alone[step][:2], rtol=2e-3)
    with pytest.raises(ConfigError, match=r"rows_per_step / optim\.accumulate is 1, which does not"):
        train(config(home, home / "odd", mesh=mesh))


def test_a_checkpoint_is_the_start_of_another_run(home, tmp_path):
    """From bf16 weights: float32 masters for what learns, the same bits for the rest, bf16 exported."""
    tokenizer = open_tokenizer(home / "tok")
    model = fit_vocabulary(preset("tiny"), tokenizer)
    params = jax.jit(init_params, static_argnums=(0, 1))(model, 5)
    params = jax.tree.map(lambda x: np.asarray(x.astype("bfloat16")), params)
    export_hf(tmp_path / "base", model, LiveCCBlock(pixel_budget="12"), params, tokenizer)
    settings = {"preset": "", "tokenizer": "", "init": str(tmp_path / "base"), "max_steps": 2}
    assert len(losses(config(home, tmp_path / "run", **settings))) == 2
    trained = open_checkpoint(tmp_path / "run").load_params()
    assert {x.dtype.name for x in jax.tree.leaves(trained["vision"])} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(trained["text"])} == {"float32"}
    convert(tmp_path / "run", tmp_path / "hf")
    exported = open_checkpoint(tmp_path / "hf").load_params()
    jax.tree.map(np.testing.assert_array_equal, exported["vision"], params["vision"])
    assert {x.dtype.name for x in jax.tree.leaves(exported)} == {"bfloat16"}
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), exported["text"], params["text"])
    assert any(jax.tree.leaves(changed))
    events = next((tmp_path / "run/tensorboard").iterdir()).read_bytes()
    for name in ("loss", "targets", "tokens_per_second", "density", "mfu", "memory_bytes"):
        assert name.encode() in events


def test_a_run_exports_with_its_settings(home, straight):
    checkpoint = open_checkpoint(home / "straight")
    assert checkpoint.livecc.pixel_budget == "12"
    assert checkpoint.livecc.positions == "mrope"
    tokenizer = checkpoint.open_tokenizer()
    assert checkpoint.config.ids.video_pad == tokenizer.special.video_pad
    assert checkpoint.config.text.vocab_size == 640
