"""Functions of users, named `module:function` or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError


def is_plug_in(name: str) -> bool:
    """Whether a name is that of a function rather than of a file or an address."""
    place, colon, function = name.rpartition(":")
    return bool(colon) and function.isidentifier() and (place.endswith(".py") or _is_module(place))


def _is_module(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def load_plug_in(name: str) -> Callable[..., Any]:
    """Imports a function. Raises ConfigError when it cannot be imported."""
    place, _, function = name.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        found = getattr(module, function)
    except Exception as error:  # whatever a user's module raises
        said = " ".join(str(error).split())
        raise ConfigError(
            f"{name}: the plug-in cannot be imported ({type(error).__name__}: {said:.200})"
        ) from error
    if not callable(found):
        raise ConfigError(f"{name}: the plug-in is no function")
    return found
