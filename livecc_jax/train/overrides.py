"""Changes to a config by the names of its fields, from a command line, which tyro reads, or Python.

A field's type, default and choices are those of its dataclass, and its help is the comment beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from livecc_jax.errors import ConfigError
from livecc_jax.train.config import Config, flatten

TRUTH = {"true": True, "false": False}


def override(config: Config, changes: Sequence[tuple[str, str]]) -> Config:
    """Applies command-line changes such as ("optim.learning_rate", "1e-5"); the last of a name counts.

    Whether the values can work together is checked by `Config.check`.

    Args:
        config: The config.
        changes: Names of fields, and their values as text: numbers, `true` or `false`, and tuples as
            names with commas between them.

    Raises:
        ConfigError: There is no such field, or a value has the wrong type or is none of the choices.
    """
    for name, _ in changes:
        _field_type(config, name)  # raises for a name that is none
    chosen = dict(changes)
    try:
        return _parse(config, chosen)
    except SystemExit:  # one of them cannot be read: which?
        for name, text in chosen.items():
            try:
                _parse(config, {name: text})
            except SystemExit:
                raise _wrong_value(name, _field_type(config, name), text) from None
        raise


def replace_fields(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns a config with other values of some fields.

    Args:
        config: The config.
        changes: Values by names such as "optim.learning_rate". A text is read as on the command line.

    Raises:
        ConfigError: There is no such field, or a value has the wrong type or is none of the choices.
    """
    for name, value in changes.items():
        if isinstance(value, str):
            config = override(config, [(name, value)])
        else:
            value = _checked(name, _field_type(config, name), value)
            config = _replace(config, name.split("."), value)
    return config


def describe_fields(config: Config) -> str:
    """Returns the help on all fields: types, choices, the values of this config, what they mean."""
    import tyro

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(
            Config,
            prog="livecc train CONFIG",
            args=["--help"],
            default=config,
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff,),
            registry=_registry(),
        )
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    # Before the first group stand usage and description, which are those of the command, as is -h.
    first = next((i for i, line in enumerate(lines) if "options" in line and "[" not in line), 0)
    return "\n".join(line for line in lines[first:] if "-h, --help" not in line)


def _parse(config: Config, changes: Mapping[str, str]) -> Config:
    """Returns the config with these values. Raises SystemExit if one cannot be read."""
    import tyro

    with contextlib.redirect_stderr(io.StringIO()):  # our own sentence says what is wrong
        return tyro.cli(
            Config,
            args=[f"--{name}={text}" for name, text in changes.items()],
            default=config,
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff,),
            registry=_registry(),
            console_outputs=False,
        )


def _registry() -> Any:
    """Returns how tyro reads tuples, with commas, and truth values, in any case."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def names(info: Any) -> PrimitiveConstructorSpec | None:
        if get_origin(info.type) is not tuple:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="NAME,...",
            instance_from_str=lambda texts: tuple(filter(None, texts[0].split(","))),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [",".join(value)],
        )

    @registry.primitive_rule
    def truth(info: Any) -> PrimitiveConstructorSpec | None:
        if info.type is not bool:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{true,false}",
            instance_from_str=lambda texts: _truth(texts[0]),
            is_instance=lambda value: isinstance(value, bool),
            str_from_instance=lambda value: [str(value).lower()],
        )

    return registry


def _truth(text: str) -> bool:
    if text.lower() not in TRUTH:
        raise ValueError(f"{text!r} is neither true nor false")
    return TRUTH[text.lower()]


def _field_type(node: Any, name: str) -> Any:
    """Returns the type of the field of this name. Raises ConfigError if there is none."""
    for i, part in enumerate(path := name.split(".")):
        if not dataclasses.is_dataclass(node):
            raise ConfigError(f"config field {name!r} is not a single value that can be set")
        fields = sorted(field.name for field in dataclasses.fields(node))
        if part not in fields:
            known = flatten(Config())
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"there is no config field {name!r}; the fields here are {', '.join(fields)}{hint}"
            )
        kind, node = get_type_hints(type(node))[part], getattr(node, part)
        if i == len(path) - 1 and dataclasses.is_dataclass(node):
            raise ConfigError(f"config field {name!r} is not a single value that can be set")
    return kind


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Returns a Python value as the field's type has it. Raises ConfigError if it has another type."""
    if get_origin(kind) is tuple:
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif get_origin(kind) is not Literal and (
        type(value) is kind or (kind is float and type(value) is int)
    ):
        return kind(value)
    raise _wrong_value(name, kind, value)


def _wrong_value(name: str, kind: Any, value: Any) -> ConfigError:
    if get_origin(kind) is Literal:
        return ConfigError(f"{name} {value!r:.80} is not one of {', '.join(get_args(kind))}")
    kind = "names with commas between them" if get_origin(kind) is tuple else kind.__name__
    return ConfigError(f"config field {name!r} takes {kind}, not {value!r:.80}")


def _replace(node: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replace(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: value})
