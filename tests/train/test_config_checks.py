"""Tests that numbers that no optimizer or network can have are refused by the name of their field."""

import dataclasses
import math

import pytest

from livecc_jax.checkpoints.hf_config import LiveCCBlock, parse_config, to_config_json
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.train.config import DataConfig, OptimConfig
from tests.support.checkpoints import tiny_config

NAN, INFINITY = math.nan, math.inf


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("b1", 1), ("b1", -0.1), ("b1", NAN), ("b2", 2), ("b2", 1.0), ("b2", NAN), ("eps", -1),
        ("eps", 0), ("eps", NAN), ("eps", INFINITY), ("clip_norm", NAN), ("clip_norm", 0),
        ("clip_norm", -1), ("weight_decay", -0.1), ("weight_decay", NAN), ("learning_rate", NAN),
        ("learning_rate", INFINITY), ("warmup_ratio", NAN),
    ],
)  # fmt: skip
def test_optimizer(field, value):
    with pytest.raises(ConfigError, match=rf"^optim\.{field} must .*{value}$"):
        OptimConfig(**{field: value}).check()


def test_what_stays_possible():
    OptimConfig().check()
    OptimConfig(b1=0, b2=0, eps=1e-12, clip_norm=INFINITY, weight_decay=0.1).check()


@pytest.mark.parametrize("value", [NAN, -1.0])
def test_cache(value):
    with pytest.raises(ConfigError, match=r"^data\.cache_gb must"):
        DataConfig(index="x", cache_gb=value).check()


@pytest.mark.parametrize("layout", ["flat", "nested"])
@pytest.mark.parametrize("value", [NAN, INFINITY, 0, -1])
@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta"])
def test_network(tmp_path, field, value, layout):
    data = to_config_json(tiny_config(), LiveCCBlock(), layout=layout)
    data.get("text_config", data)[field] = value
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{field} is {value}"):
        parse_config(data, tmp_path / "config.json")
    ours = {"rms_norm_eps": "norm_eps"}.get(field, field)
    with pytest.raises(ConfigError, match=rf"text\.{ours} must be a positive number"):
        dataclasses.replace(tiny_config().text, **{ours: value})
