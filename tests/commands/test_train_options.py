"""`livecc train` takes two options of other commands, before or among the changes to its config."""

import argparse

import pytest

from livecc_jax.commands.parser import build_parser
from livecc_jax.commands.train import _overrides
from livecc_jax.errors import ConfigError
from livecc_jax.train.config import Config
from livecc_jax.train.overrides import override

HOSTS = ["--allow-host", "a", "--allow-host", "10.0.0.0/8"]


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "--media-root",
            "/m",
            "--allow-host",
            "a",
            "--allow-host",
            "10.0.0.0/8",
            "config.py",
            "--seed",
            "3",
        ],
        [
            "config.py",
            "--seed",
            "3",
            "--media-root=/m",
            "--allow-host",
            "a",
            "--allow-host",
            "10.0.0.0/8",
        ],
        ["config.py", "--seed", "3", "--data.media_root", "/m", "--data.allow_hosts", "a,10.0.0.0/8"],
    ],
)
def test_a_media_root_is_a_field_of_the_config(arguments):
    args = build_parser().parse_args(["train", *arguments])
    config = override(Config(), _overrides(args))
    assert (config.seed, config.data.media_root) == (3, "/m")
    assert config.data.allow_hosts == ("a", "10.0.0.0/8")


def test_without_the_options_the_config_stays(tmp_path):
    args = argparse.Namespace(media_root="", allow_host=[], overrides=["--seed", "3"])
    assert _overrides(args) == [("seed", "3")]
    changes = [("data.index", "x"), ("data.media_root", str(tmp_path / "missing"))]
    with pytest.raises(ConfigError, match="no folder that could be the media root"):
        override(Config(), changes).data.check()
