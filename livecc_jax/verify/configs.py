"""Compares the configurations of two checkpoints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from livecc_jax.checkpoints.open import Checkpoint

# Fields in which two checkpoints may differ and still compute the same: the dtype in which a run is
# exported, and whether the head is stored once or twice (the tensors tell whether it is the embedding).
HARMLESS = ("livecc.dtype", "text.tied")


@dataclass(frozen=True)
class ConfigDifference:
    """A field in which two configurations differ.

    Attributes:
        field: Name of the field, as "text.width".
        a: Its value in the first configuration.
        b: Its value in the second one.
        harmless: Whether the difference changes no computed value.
    """

    field: str
    a: Any
    b: Any
    harmless: bool


def compare_configs(a: Checkpoint, b: Checkpoint) -> list[ConfigDifference]:
    """Returns the fields in which the configurations of two checkpoints differ, as we read them."""
    x, y = _fields(a), _fields(b)
    return [ConfigDifference(k, x[k], y[k], k in HARMLESS) for k in x if x[k] != y[k]]


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns all fields as {"text.width": 64, ...}, with those of the block "livecc"."""
    groups = {group: getattr(checkpoint.config, group) for group in ("text", "vision", "ids")}
    fields = {}
    for group, values in (groups | {"livecc": checkpoint.livecc}).items():
        fields |= {f"{group}.{k}": v for k, v in dataclasses.asdict(values).items()}
    return fields
