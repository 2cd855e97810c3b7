"""Writes a checkpoint in HuggingFace layout, with one tensor in memory at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livecc_jax.checkpoints.files import atomic_directory, copy_files
from livecc_jax.checkpoints.hf_config import CONFIG, LiveCCBlock, to_config_json
from livecc_jax.checkpoints.json_fields import write_json
from livecc_jax.checkpoints.model_card import model_card
from livecc_jax.checkpoints.safetensors import MAX_SHARD_BYTES, TensorToWrite, write_directory
from livecc_jax.checkpoints.weight_source import CheckpointWeights, MemoryWeights
from livecc_jax.model.config import ModelConfig, SpecialIds
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.writing import write_text

# Settings files beside the weights, which every conversion copies.
GENERATION, PREPROCESSOR = "generation_config.json", "preprocessor_config.json"
SETTINGS_FILES = (GENERATION, PREPROCESSOR, "video_preprocessor_config.json", "chat_template.json")


def _generation_config(ids: SpecialIds) -> dict[str, Any]:
    return {
        "bos_token_id": ids.bos,
        "eos_token_id": [ids.eos, ids.bos],
        "pad_token_id": ids.bos,
    }


def export_hf(
    destination: str | Path,
    config: ModelConfig,
    livecc: LiveCCBlock,
    weights: Params | MemoryWeights | CheckpointWeights,
    tokenizer: Tokenizer | None = None,
    *,
    layout: str = "flat",
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    settings: str | Path | None = None,
    origin: Mapping[str, Any] | None = None,
) -> int:
    """Write a directory that transformers and `livecc` load; it appears complete or not at all.

    Args:
        destination: The directory to write.
        config: The architecture.
        livecc: How the model was trained; written into config.json.
        weights: Nested dict of numpy or jax arrays, or a weight source, in the dtypes to store.
        tokenizer: Tokenizer whose files are written too; None writes none.
        layout: Layout of config.json, "flat" (2024) or "nested".
        overwrite: Replace a checkpoint that exists there.
        max_shard_bytes: Maximum size of one weights file; larger weights are sharded.
        settings: A directory whose `SETTINGS_FILES` are copied; missing ones are created.
        origin: What the model card says about the training; see `model_card`.

    Returns:
        Number of bytes of weights written.

    Raises:
        CheckpointError: The destination exists, the parameters do not have this architecture, or the
            disk is too full or cannot be written.
    """
    if isinstance(weights, Mapping):
        weights = MemoryWeights(config, weights)
    tensors = [
        TensorToWrite(name, weights.dtypes[name], shape, lambda name=name: weights.read(name))
        for name, shape in weights.shapes.items()
    ]
    sizes: Counter[str] = Counter()
    for t in tensors:
        sizes[str(t.dtype)] += t.size
    dtype = sizes.most_common(1)[0][0]
    config_json = to_config_json(config, livecc, dtype, layout)
    with atomic_directory(destination, overwrite, sizes.total()) as directory:
        write_json(directory / CONFIG, config_json)
        write_json(directory / GENERATION, _generation_config(config.ids))
        for name, content in config.family.preprocessors.items():
            write_json(directory / name, content)
        if tokenizer is not None:
            tokenizer.save(directory)
        if settings is not None:
            copy_files(settings, directory, SETTINGS_FILES)
        total = write_directory(directory, tensors, max_shard_bytes)
        parameters = sum(math.prod(t.shape) for t in tensors)
        card = model_card(config.family, livecc, dtype, parameters, origin)
        write_text(directory / "README.md", card)
    return total
