"""The public API from annotations to a checkpoint: index, train, convert and verify."""

import pytest

import livecc_jax
from livecc_jax.train.config import flatten
from livecc_jax.train.overrides import replace_fields
from tests.support.training import ANNOTATIONS, run_config


def test_from_annotations_to_a_checkpoint(tmp_path, small_tokenizer):
    index = livecc_jax.build_index(
        ANNOTATIONS / "windows.jsonl", tmp_path / "index", tokenizer=small_tokenizer, pixel_budget=12
    )
    assert len(index) == 3
    config = run_config(tmp_path, tmp_path / "run")
    reports = []
    run = livecc_jax.train_model(
        config, {"tokenizer": str(small_tokenizer), "max_steps": 1, "data.epochs": 1}, reports.append
    )
    assert run == tmp_path / "run"
    assert [p.step for p in reports] == [1]
    assert livecc_jax.open_model(run).pixel_budget == "12"
    written = livecc_jax.convert_model(run, tmp_path / "hf")
    assert written.path == tmp_path / "hf"
    found = livecc_jax.verify_models(run, tmp_path / "hf", turns=1)
    assert found.equal
    assert found.checksums["A"] > 0
    assert found.tensors.equal == found.tensors.total
    rounded = livecc_jax.convert_model(run, tmp_path / "rounded", dtype="bfloat16")
    found = livecc_jax.verify_models(run, rounded.path, turns=1)
    assert not found.equal
    assert found.weights_differ
    assert found.first_difference is not None


def test_index_settings_come_from_one_place(tmp_path):
    for sources in ({}, {"model": "a", "tokenizer": "b"}):
        with pytest.raises(livecc_jax.ConfigError, match="one of a model and a tokenizer"):
            livecc_jax.build_index("a.jsonl", tmp_path / "index", **sources)


def test_fields_are_replaced_by_values():
    config = livecc_jax.load_config("pretrain_7b")
    changed = replace_fields(
        config,
        {"data.tokens": 64, "optim.learning_rate": 1, "compute.freeze": ["text"], "run": "r"},
    )
    assert type(changed.optim.learning_rate) is float
    before, after = flatten(config), flatten(changed)
    assert {k: v for k, v in after.items() if v != before[k]} == {
        "data.tokens": 64, "optim.learning_rate": 1.0, "compute.freeze": ["text"], "run": "r",
    }  # fmt: skip
    assert replace_fields(config, {"optim.learning_rate": "1e-3"}).optim.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.token", 1, "no config field 'data.token'"),
        ("data.tokens", 1.5, "takes int, not 1.5"),
        ("data.tokens", True, "takes int"),
        ("data.tokens.more", 1, "not a single value"),
        ("data", 1, "not a single value"),
        ("compute.freeze", [1], "takes"),
        ("compute.unroll", 1, "takes bool"),
    ],
)
def test_fields_that_cannot_be_replaced(name, value, message):
    with pytest.raises(livecc_jax.ConfigError, match=message):
        replace_fields(livecc_jax.Config(), {name: value})


def test_shipped_configs_have_names(tmp_path, monkeypatch):
    for name in ("demo", "demo.py", "pretrain_2b", "sft_7b"):
        assert isinstance(livecc_jax.load_config(name), livecc_jax.Config)
    with pytest.raises(livecc_jax.ConfigError, match=r"nothing: there is no .*pretrain_7b"):
        livecc_jax.load_config("nothing")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("config = 3\n")
    (tmp_path / "sft_7b.py").write_text("from livecc_jax import Config\nconfig = Config(seed=5)\n")
    assert livecc_jax.load_config("demo").preset == "small"
    assert livecc_jax.load_config("sft_7b.py").seed == 5
    assert livecc_jax.load_config("sft_7b").seed == 0
