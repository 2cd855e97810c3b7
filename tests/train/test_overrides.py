"""Changes to a config: tyro reads the values of a command line as the fields' types say."""

import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from livecc_jax.cli import main
from livecc_jax.data.rows.row import WEIGHTINGS
from livecc_jax.errors import ConfigError
from livecc_jax.model.remat import REMAT_POLICIES
from livecc_jax.timeline.position_modes import POSITION_MODES
from livecc_jax.train.config import Config, DataConfig, flatten
from livecc_jax.train.overrides import describe_fields, override


def leaves(kind, prefix=""):
    """(name, type) of every field of a dataclass and of its sections."""
    for name, field_type in get_type_hints(kind).items():
        if dataclasses.is_dataclass(field_type):
            yield from leaves(field_type, f"{prefix}{name}.")
        else:
            yield prefix + name, field_type


TEXTS = {int: "-7", float: "2.5e-3", str: "-- a=b, c", bool: "true", tuple: "a,b-c"}
VALUES = {int: -7, float: 0.0025, str: "-- a=b, c", bool: True, tuple: ["a", "b-c"]}


def test_every_field_takes_a_value_of_its_type():
    """All at once, and no field beside them changes."""
    changes, expected = [], flatten(Config())
    for name, kind in leaves(Config):
        if get_origin(kind) is Literal:
            text = value = get_args(kind)[-1]
        else:
            origin = get_origin(kind) or kind
            text, value = TEXTS[origin], VALUES[origin]
        changes.append((name, text))
        expected[name] = value
    assert flatten(override(Config(), changes)) == expected
    assert flatten(override(Config(), changes[:3])) == flatten(Config()) | {
        name: expected[name] for name, _ in changes[:3]
    }


def test_the_last_value_of_a_name_counts():
    assert override(Config(), [("seed", "1"), ("run", "a"), ("seed", "2")]).seed == 2
    assert override(Config(), [("compute.freeze", "")]).compute.freeze == ()
    assert override(Config(), [("optim.clip_norm", "inf")]).optim.clip_norm == float("inf")
    assert override(Config(), [("compute.unroll", "TRUE")]).compute.unroll is True


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data.tokens", "many", "'data.tokens' takes int, not 'many'"),
        ("data.tokens", "1.5", "takes int"),
        ("optim.eps", "", "takes float, not ''"),
        ("compute.dtype", "int4", "compute.dtype 'int4' is not one of float32, bfloat16"),
        ("data.token", "5", "no config field 'data.token'.*did you mean data.tokens"),
        ("data", "5", "not a single value"),
        ("data.tokens.more", "5", "not a single value"),
        ("", "5", "no config field ''"),
        ("data.", "5", "no config field"),
        ("--run", "5", "no config field '--run'"),
    ],
)
def test_what_cannot_be_set(name, text, message, capsys):
    with pytest.raises(ConfigError, match=message):
        override(Config(), [("run", "fine"), (name, text), ("seed", "3")])
    assert capsys.readouterr() == ("", "")


def test_choices_are_those_of_the_code():
    hints = dict(leaves(Config))
    assert get_args(hints["data.weighting"]) == WEIGHTINGS
    assert get_args(hints["compute.remat"]) == REMAT_POLICIES
    assert get_args(hints["positions"]) == POSITION_MODES


def test_help_names_every_field_with_type_choices_and_value(capsys):
    text = describe_fields(Config(data=DataConfig(tokens=4711)))
    names = [name for name, _ in leaves(Config)]
    assert [name for name in names if f"--{name} " not in text.replace("\n", " \n")] == []
    assert "{token,example}" in text
    assert "(default: 4711)" in " ".join(text.split())
    with pytest.raises(SystemExit) as exited:
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert exited.value.code == 0
    assert "--media-root DIR" in printed
    assert "--optim.learning_rate FLOAT" in printed
    with pytest.raises(SystemExit):
        main(["train", "pretrain_7b", "--seed", "1", "--help"])
    assert "rows_per_step INT" in capsys.readouterr().out
