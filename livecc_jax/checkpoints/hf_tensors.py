"""Finds the tensors of a HuggingFace checkpoint and checks them against the weight name table.

Nothing is loaded before every tensor has been checked, and one message names everything that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from livecc_jax.checkpoints.hf_config import CONFIG
from livecc_jax.checkpoints.safetensors import TensorInfo, read_directory
from livecc_jax.checkpoints.weight_names import (
    HEAD,
    WeightEntry,
    canonical_name,
    embed_name,
    is_derived,
    weight_name_table,
)
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig

MAX_PHRASES = 40  # of one message: all parameters of a model, each phrase for its layers
FLOATS = tuple(np.dtype(d) for d in ("float16", jnp.bfloat16, "float32", "float64"))


def find_tensors(directory: str | Path, config: ModelConfig) -> dict[str, TensorInfo]:
    """Find the tensors of a checkpoint, all present and of the right shape.

    A tied model may also store its head, provided that it equals the embedding.

    Args:
        directory: Directory in HuggingFace layout.
        config: The architecture.

    Returns:
        The tensors by canonical name.

    Raises:
        CheckpointError: Names every tensor that is missing, extra, duplicated or of the wrong shape.
    """
    tensors: dict[str, list[TensorInfo]] = {}
    for name, tensor in read_directory(directory):
        if not is_derived(name):
            tensors.setdefault(canonical_name(name, config.family), []).append(tensor)
    problems = []
    embed = embed_name(tensors)
    heads = tensors.pop(HEAD, []) if config.text.tied else []
    if heads and embed in tensors and not all(equal_bits(t, tensors[embed][0]) for t in heads):
        problems.append(f"{HEAD} differs from {embed} though config.json ties them")
    entries = weight_name_table(config)
    for entry in entries:
        problems += _problems(entry, tensors)
    expected = {name for entry in entries for name in entry.names}
    problems += [f"extra {name}" for name in tensors if name not in expected]
    if problems:
        phrases = group_layers(problems)
        rest = f"; and {len(phrases) - MAX_PHRASES} more" if len(phrases) > MAX_PHRASES else ""
        raise CheckpointError(
            f"{directory}: the weights do not fit {CONFIG}: {'; '.join(phrases[:MAX_PHRASES])}{rest}"
        )
    return {name: same_name[0] for name, same_name in tensors.items()}


def _problems(entry: WeightEntry, tensors: Mapping[str, list[TensorInfo]]) -> list[str]:
    """Returns a phrase for each thing that is wrong with the tensors of one parameter."""
    problems, dtypes = [], set()
    for name in entry.names:
        same_name = tensors.get(name, [])
        if not same_name:
            problems.append(f"missing {name}")
            continue
        if len(same_name) > 1:
            files = " and ".join(sorted({t.file.name for t in same_name}))
            problems.append(f"duplicated {name} (in {files})")
        tensor = same_name[0]
        dtypes.add(tensor.dtype)
        if tensor.shape != entry.hf_shape:
            problems.append(f"{name} has shape {tensor.shape}, not {entry.hf_shape}")
        elif tensor.dtype not in FLOATS:
            problems.append(f"{name} has dtype {tensor.dtype}, not a floating-point one")
    if len(dtypes) > 1:
        dtype_list = ", ".join(sorted(map(str, dtypes)))
        problems.append(f"{entry.names[0]} and its other layers have different dtypes ({dtype_list})")
    return problems


def group_layers(problems: Iterable[str]) -> list[str]:
    """Join phrases that differ only in a layer's number: `missing model.layers.{0-3,7}.mlp...`."""
    layers: dict[tuple[str, str], list[int]] = {}
    for problem in problems:
        match = re.fullmatch(r"(.*?(?:layers|blocks)\.|.*)([0-9]{0,9})(.*)", problem, re.DOTALL)
        before, number, after = match.groups()
        layers.setdefault((before, after), []).extend([int(number)] if number else [])
    return [
        f"{before}{_format_ranges(numbers) if numbers else ''}{after}"
        for (before, after), numbers in layers.items()
    ]


def _format_ranges(numbers: list[int]) -> str:
    """Returns `3` for one number, `{0-3,7}` for several."""
    ranges: list[list[int]] = []
    for n in sorted(numbers):
        if ranges and ranges[-1][1] == n - 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    text = ",".join(f"{a}-{b}" if b > a else str(a) for a, b in ranges)
    return text if len(numbers) == 1 else f"{{{text}}}"


def equal_bits(a: TensorInfo, b: TensorInfo, rows: int = 4096) -> bool:
    """Whether two tensors are equal bit for bit; so many rows are read at a time."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    spans = ((i, min(i + rows, a.shape[0])) for i in range(0, a.shape[0], rows))
    return all(a.read_rows(*span).tobytes() == b.read_rows(*span).tobytes() for span in spans)
