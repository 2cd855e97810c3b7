"""Complete runs: a resumed run equals an uninterrupted one, and a bad clip costs only its example."""

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
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.text.open import open_tokenizer
from livecc_jax.train.loop import train
from tests.support.random_models import initial_params
from tests.support.training import index_clips, load_run_params, run_config, train_losses


def test_resumed_equals_straight_through(home, straight):
    """Interrupted in the middle of an epoch and again later: same rows, same losses, same weights."""
    assert len(straight) > 6
    assert straight[max(straight)][0] < straight[1][0]
    run = home / "interrupted"
    first = train_losses(run_config(home, run), stop_at=3)
    second = train_losses(run_config(home, run), stop_at=5)
    third = train_losses(run_config(home, run))
    assert list(first) == [1, 2, 3]
    assert list(second) == [3, 4, 5]
    assert list(third) == list(range(5, len(straight) + 1))
    assert {**first, **second, **third} == straight
    expected = load_run_params(home / "straight")
    jax.tree.map(np.testing.assert_array_equal, expected, load_run_params(run))
    assert train_losses(run_config(home, run)) == {}  # it was finished


def test_resuming_refuses_other_rows(home, straight):
    data = run_config(home, home / "straight").data
    other = run_config(home, home / "straight", data=dataclasses.replace(data, tokens=2048), seed=4)
    with pytest.raises(ConfigError, match=r"another seed \(3 before, 4 now\), data\.tokens") as error:
        train(other)
    assert str(home / "straight") in str(error.value)


def test_a_bad_clip_is_left_out_and_the_run_repeats(home, straight):
    clip = home / "clips/fragile.mp4"
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    try:
        broken = train_losses(run_config(home, home / "broken"))
    finally:
        clip.write_bytes(content)
    assert [b[2] for b in broken.values()][-1] == 1
    assert broken != straight
    quarantine = home / "broken/quarantine.jsonl"
    entries = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert len({e["example"] for e in entries}) == 1
    assert len({e["row"] for e in entries}) == len(entries) > 1  # once an epoch
    entry = entries[0]
    assert entry["annotations"].endswith("train.jsonl")
    assert entry["line"] == 4
    assert str(clip.name) in entry["reason"]
    # The clip is intact again, but the list excludes it: the same run, bit for bit.
    data = dataclasses.replace(run_config(home, "").data, quarantine=str(quarantine))
    repeated = train_losses(run_config(home, home / "repeated", data=data))
    assert {k: v[:2] for k, v in repeated.items()} == {k: v[:2] for k, v in broken.items()}
    weights = load_run_params(home / "broken"), load_run_params(home / "repeated")
    jax.tree.map(np.testing.assert_array_equal, *weights)


def test_a_run_ends_when_nothing_can_be_read(home, straight):
    """All clips are gone, as when a disk fails: the run ends at the 21st unusable example."""
    lines = (home / "annotations/train.jsonl").read_text()
    (home / "annotations/many.jsonl").write_text(6 * lines)
    index_clips(home, "many.jsonl", home / "many")
    # 20 examples are listed as unusable from the start (in no row that exists), to run fewer steps.
    entry = {"annotations": "many.jsonl", "reason": "unusable", "row": 10**6}
    listed = [json.dumps(entry | {"example": i, "line": i + 1}) + "\n" for i in range(20)]
    (home / "listed.jsonl").write_text("".join(listed))
    data = dataclasses.replace(
        run_config(home, "").data, index=str(home / "many"), quarantine=str(home / "listed.jsonl")
    )
    shutil.move(home / "clips", home / "elsewhere")
    try:
        with pytest.raises(DataError, match=r"quarantine\.jsonl: 2[1-4] of 24 examples cannot be used"):
            train(run_config(home, home / "nothing", data=data))
    finally:
        shutil.move(home / "elsewhere", home / "clips")
    # A list can only be used with the index it was written for.
    quarantine = home / "nothing/quarantine.jsonl"
    entry = json.loads(quarantine.read_text().splitlines()[0])
    other = home / "other.jsonl"
    other.write_text(json.dumps(entry | {"line": 99}) + "\n")
    data = dataclasses.replace(data, quarantine=str(other))
    with pytest.raises(DataError, match=r"other\.jsonl: example \d+ .* is another one in this index"):
        train(run_config(home, home / "mismatch", data=data))


def test_a_run_resumes_on_another_mesh(home, straight):
    """From one device to eight in the middle of the run: the same rows, the losses up to rounding."""
    data = dataclasses.replace(run_config(home, "").data, rows_per_step=4, epochs=8)
    settings = {"data": data, "max_steps": 4}
    one_device = train_losses(run_config(home, home / "one_device", **settings))
    run = home / "moved"
    train_losses(run_config(home, run, **settings), stop_at=3)
    mesh = MeshConfig(data=2, fsdp=2, context=1, tensor=2)
    moved = train_losses(run_config(home, run, mesh=mesh, **settings))
    assert list(moved) == [3, 4]
    for step, (loss, norm, _) in moved.items():
        np.testing.assert_allclose((loss, norm), one_device[step][:2], rtol=2e-3)
    with pytest.raises(ConfigError, match=r"rows_per_step / optim\.accumulate is 1, which does not"):
        train(run_config(home, home / "odd", mesh=mesh))


def test_a_run_starts_from_a_checkpoint(home, tmp_path):
    """From bf16 weights: float32 masters if trainable, the same bits if frozen; exports are bf16."""
    tokenizer = open_tokenizer(home / "tok")
    model = fit_vocabulary(preset("tiny"), tokenizer)
    params = initial_params(model, dtype="bfloat16")
    export_hf(tmp_path / "base", model, LiveCCBlock(pixel_budget="12"), params, tokenizer)
    settings = {"preset": "", "tokenizer": "", "init": str(tmp_path / "base"), "max_steps": 2}
    assert len(train_losses(run_config(home, tmp_path / "run", **settings))) == 2
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
