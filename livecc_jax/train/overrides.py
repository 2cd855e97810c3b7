"""Changes to a config from Python: values of fields by their names, checked against their types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from livecc_jax.errors import ConfigError
from livecc_jax.train.config import Config, override


def replace_fields(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns a config with other values of some fields.

    Args:
        config: The config.
        changes: Values by names such as "optim.learning_rate". A text is read as on the command line.

    Raises:
        ConfigError: There is no such field, or a value has the wrong type.
    """
    for name, value in changes.items():
        if isinstance(value, str):
            config = override(config, [(name, value)])
        else:
            config = _replace(config, name.split("."), value, name)
    return config


def _replace(node: Any, path: list[str], value: Any, name: str) -> Any:
    names = {f.name for f in dataclasses.fields(node)}
    if path[0] not in names:
        raise ConfigError(
            f"there is no config field {name!r}; the fields here are {', '.join(sorted(names))}"
        )
    old = getattr(node, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(old):
            raise ConfigError(f"config field {name!r} is not a single value that can be set")
        return dataclasses.replace(node, **{path[0]: _replace(old, path[1:], value, name)})
    wanted = get_type_hints(type(node))[path[0]]
    if dataclasses.is_dataclass(wanted):
        fits = isinstance(value, wanted)
    elif get_args(wanted):  # tuple[str, ...]
        fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        value = tuple(value) if fits else value
    else:
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        value = wanted(value) if fits else value
    if not fits:
        kind = getattr(wanted, "__name__", wanted)
        raise ConfigError(f"config field {name!r} takes {kind}, not {value!r:.80}")
    return dataclasses.replace(node, **{path[0]: value})
