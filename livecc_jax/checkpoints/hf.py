"""Weights in HuggingFace layout: streamed in, streamed out.

Nothing is loaded before everything has been checked against the table of names, and all that is wrong
comes in one message. Loading fills each destination (or each device's shard of it) straight from the
memory-mapped files; exporting writes one tensor at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.files import replacing
from livecc_jax.checkpoints.hf_config import ARCHITECTURE, CONFIG, LiveCCBlock, to_dict, write_json
from livecc_jax.checkpoints.names import EMBED, HEAD, Entry, canonical, is_derived, table
from livecc_jax.checkpoints.safetensors import (
    MAX_SHARD_BYTES,
    Pending,
    Tensor,
    read_directory,
    write_directory,
)
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig, SpecialIds
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.text.tokenizer import Tokenizer

FLOATS = tuple(np.dtype(d) for d in ("float16", jax.numpy.bfloat16, "float32", "float64"))
NAMED_PROBLEMS = 10


def _problems(entry: Entry, found: Mapping[str, list[Tensor]]) -> list[str]:
    """What is wrong with the tensors of one parameter."""
    problems, dtypes = [], set()
    for name in entry.names:
        tensors = found.get(name, [])
        if not tensors:
            problems.append(f"missing {name}")
            continue
        if len(tensors) > 1:
            files = " and ".join(sorted({t.file.name for t in tensors}))
            problems.append(f"duplicated {name} (in {files})")
        tensor = tensors[0]
        dtypes.add(tensor.dtype)
        if tensor.shape != entry.hf_shape:
            problems.append(f"{name} has shape {tensor.shape}, not {entry.hf_shape}")
        elif tensor.dtype not in FLOATS:
            problems.append(f"{name} has dtype {tensor.dtype}, not a floating-point one")
    if len(dtypes) > 1:
        kinds = ", ".join(sorted(map(str, dtypes)))
        problems.append(f"{entry.names[0]} and its other layers have different dtypes ({kinds})")
    return problems


def _same(a: Tensor, b: Tensor, rows: int = 4096) -> bool:
    """Whether two tensors are equal bit for bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    x, y = (t.read().reshape(a.shape[0], -1).view(np.uint8) for t in (a, b))
    return all(np.array_equal(x[i : i + rows], y[i : i + rows]) for i in range(0, len(x), rows))


def find_tensors(directory: str | Path, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a checkpoint by canonical name, all present and of the right shape.

    A tied model may store its head as well, provided that it equals the embedding.

    Raises:
        CheckpointError: naming all that is missing, extra, duplicated or mis-shaped (the first ten).
    """
    found: dict[str, list[Tensor]] = {}
    for name, tensor in read_directory(directory):
        if not is_derived(name):
            found.setdefault(canonical(name), []).append(tensor)
    problems = []
    head = found.pop(HEAD, []) if config.text.tied else []
    if head and EMBED in found and not all(_same(t, found[EMBED][0]) for t in head):
        problems.append(f"{HEAD} differs from {EMBED} though config.json ties them")
    entries = table(config)
    for entry in entries:
        problems += _problems(entry, found)
    known = {name for entry in entries for name in entry.names}
    problems += [f"extra {name}" for name in found if name not in known]
    if problems:
        shown = "; ".join(problems[:NAMED_PROBLEMS])
        rest = len(problems) - NAMED_PROBLEMS
        more = f"; and {rest} more" if rest > 0 else ""
        raise CheckpointError(f"{directory}: the weights do not fit {CONFIG}: {shown}{more}")
    return {name: tensors[0] for name, tensors in found.items()}


def _fill(entry: Entry, found: Mapping[str, Tensor], dtype: np.dtype, index: tuple) -> np.ndarray:
    """The part of a parameter that `index` (a slice a dimension) selects."""
    if not entry.stacked:
        values = entry.from_hf(found[entry.names[0]].read())[index]
        return np.array(values, dtype, order="C")  # a copy, never a view of the file
    names = entry.names[index[0]]
    inner = [len(range(*s.indices(n))) for s, n in zip(index[1:], entry.shape)]
    out = np.empty((len(names), *inner), dtype)
    for i, name in enumerate(names):
        out[i] = entry.from_hf(found[name].read())[index[1:]]
    return out


def flat_dtypes(dtype: Any, paths: list[str]) -> dict[str, np.dtype | None]:
    """`dtype` for every path: None, one for all, or a tree of them shaped like the parameters."""
    if isinstance(dtype, Mapping):
        given = traverse_util.flatten_dict(dtype, sep="/")
        return {path: np.dtype(given[path]) for path in paths}
    return dict.fromkeys(paths, None if dtype is None else np.dtype(dtype))


def load_hf(
    directory: str | Path, config: ModelConfig, dtype: Any = None, shardings: Params | None = None
) -> Params:
    """Read the weights of a HuggingFace directory.

    Args:
        directory: holds `model.safetensors`, or shards and their index.
        config: the architecture, as `read_config(directory)` gives it.
        dtype: a dtype, or a tree of dtypes like the parameters; without it tensors keep theirs.
        shardings: a tree of `jax.sharding.Sharding` like the parameters; each device then gets its
            shard straight from the files.

    Returns:
        Nested dict of numpy arrays, or with `shardings` of jax arrays.

    Raises:
        CheckpointError: see `find_tensors`.
    """
    found = find_tensors(directory, config)
    entries = table(config)
    dtypes = flat_dtypes(dtype, [e.path for e in entries])
    places = traverse_util.flatten_dict(shardings, sep="/") if shardings is not None else None
    params = {}
    for entry in entries:
        kind = dtypes[entry.path] or found[entry.names[0]].dtype
        if places is None:
            everything = (slice(None),) * len(entry.full_shape)
            params[entry.path] = _fill(entry, found, kind, everything)
        else:
            params[entry.path] = jax.make_array_from_callback(
                entry.full_shape,
                places[entry.path],
                lambda index, entry=entry, kind=kind: _fill(entry, found, kind, index),
            )
    return traverse_util.unflatten_dict(params, sep="/")


def abstract_hf(directory: str | Path, config: ModelConfig) -> Params:
    """Shapes and stored dtypes, as `jax.ShapeDtypeStruct`s; only headers are read."""
    found = find_tensors(directory, config)
    leaves = {
        e.path: jax.ShapeDtypeStruct(e.full_shape, found[e.names[0]].dtype) for e in table(config)
    }
    return traverse_util.unflatten_dict(leaves, sep="/")


def pending_tensors(config: ModelConfig, params: Params, dtype: Any = None) -> list[Pending]:
    """What a HuggingFace file holds, tensor by tensor, made when it is written.

    Args:
        config: the architecture.
        params: nested dict of numpy or jax arrays.
        dtype: cast to this; without it every parameter keeps its own.

    Raises:
        CheckpointError: `params` is not this architecture's.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    entries = table(config)
    for path, shape in itertools.chain(
        ((e.path, e.full_shape) for e in entries),
        ((path, None) for path in flat.keys() - {e.path for e in entries}),
    ):
        have = tuple(flat[path].shape) if path in flat else None
        if have != shape:
            raise CheckpointError(f"parameter {path} has shape {have}, not {shape}")
    out = []
    for entry in entries:
        leaf = flat[entry.path]
        kind = np.dtype(leaf.dtype if dtype is None else dtype)
        for layer, name in enumerate(entry.names):

            def read(
                entry: Entry = entry, leaf: Any = leaf, layer: int = layer, kind: np.dtype = kind
            ) -> np.ndarray:
                if entry.stacked and isinstance(leaf, jax.Array):
                    # Only this layer comes to the host, by one program for all layers.
                    leaf = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
                elif entry.stacked:
                    leaf = leaf[layer]
                return entry.to_hf(np.asarray(leaf)).astype(kind, copy=False)

            out.append(Pending(name, kind, entry.hf_shape, read))
    return out


def _main_dtype(tensors: list[Pending]) -> str:
    """The dtype that most bytes have."""
    sizes: dict[str, int] = {}
    for t in tensors:
        sizes[str(t.dtype)] = sizes.get(str(t.dtype), 0) + t.size
    return max(sizes, key=lambda name: sizes[name])


def _generation(ids: SpecialIds) -> dict[str, Any]:
    return {
        "bos_token_id": ids.bos,
        "eos_token_id": [ids.eos, ids.bos],
        "pad_token_id": ids.bos,
    }


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    """Qwen2-VL's image processor, with the limits of its release."""
    from livecc_jax.model.vision import PIXEL_MEAN, PIXEL_STD

    v = config.vision
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": v.patch_size,
        "temporal_patch_size": v.temporal_patch_size,
        "merge_size": v.merge_size,
    }


def _model_card(livecc: LiveCCBlock, dtype: str, parameters: int) -> str:
    return f"""---
library_name: transformers
pipeline_tag: video-text-to-text
tags:
- qwen2_vl
- livecc
---

# Streaming video-language model

A model of the Qwen2-VL architecture with {parameters:,} parameters in {dtype}, written by
`livecc convert`. It loads with `transformers` (`{ARCHITECTURE}`) and with
`livecc` alike.

It was trained to comment on video as it plays: the conversation alternates a turn of frames with the
words spoken meanwhile, each turn of words ending in " ...".

| | |
|---|---|
| positions | {livecc.positions} |
| pixel budget of a frame | {livecc.pixel_budget} |
| dtype | {dtype} |

`positions` and the pixel budget are also in `config.json` under `"livecc"`; `livecc` takes its
defaults from there.
"""


def export_hf(
    destination: str | Path,
    config: ModelConfig,
    livecc: LiveCCBlock,
    params: Params,
    tokenizer: Tokenizer | None = None,
    *,
    dtype: Any = None,
    layout: str = "flat",
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Write a directory that transformers and `livecc` load; it appears whole or not at all.

    Args:
        destination: the directory.
        config: the architecture.
        livecc: how the model was trained, written into config.json.
        params: nested dict of numpy or jax arrays.
        tokenizer: its files are written too; None writes none.
        dtype: cast the weights; without it every tensor keeps its own dtype.
        layout: of config.json, "flat" (2024) or "nested".
        overwrite: replace a checkpoint that is there.
        max_shard_bytes: largest weights file before sharding.

    Returns:
        Bytes of weights written.

    Raises:
        CheckpointError: the destination exists, the parameters are not this architecture's, or the
            disk refuses.
    """
    tensors = pending_tensors(config, params, dtype)
    kind = _main_dtype(tensors)
    config_json = to_dict(config, livecc, kind, layout)
    with replacing(destination, overwrite) as directory:
        write_json(directory / CONFIG, config_json)
        write_json(directory / "generation_config.json", _generation(config.ids))
        write_json(directory / "preprocessor_config.json", _preprocessor(config))
        if tokenizer is not None:
            tokenizer.save(directory)
        total = write_directory(directory, tensors, max_shard_bytes)
        count = sum(int(np.prod(t.shape)) for t in tensors)
        (directory / "README.md").write_text(_model_card(livecc, kind, count), encoding="utf-8")
    return total
