"""Weights in HuggingFace layout, streamed out: one tensor in memory at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livecc_jax.checkpoints.files import carry, replacing
from livecc_jax.checkpoints.hf_config import CONFIG, LiveCCBlock, to_dict, write_json
from livecc_jax.checkpoints.model_card import model_card
from livecc_jax.checkpoints.safetensors import MAX_SHARD_BYTES, Pending, write_directory
from livecc_jax.checkpoints.stored import HeldWeights, StoredWeights
from livecc_jax.model.config import ModelConfig, SpecialIds
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.text.tokenizer import Tokenizer

# Settings beside the weights, which go with them from one checkpoint to the next.
GENERATION, PREPROCESSOR = "generation_config.json", "preprocessor_config.json"
CARRIED = (GENERATION, PREPROCESSOR, "video_preprocessor_config.json", "chat_template.json")


def _generation(ids: SpecialIds) -> dict[str, Any]:
    return {
        "bos_token_id": ids.bos,
        "eos_token_id": [ids.eos, ids.bos],
        "pad_token_id": ids.bos,
    }


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    """Qwen2-VL's image processor, with the limits of its release."""
    from livecc_jax.families.qwen2_vl import IMAGE_MEAN, IMAGE_STD

    v = config.vision
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": v.patch_size,
        "temporal_patch_size": v.temporal_patch_size,
        "merge_size": v.merge_size,
    }


def export_hf(
    destination: str | Path,
    config: ModelConfig,
    livecc: LiveCCBlock,
    weights: Params | HeldWeights | StoredWeights,
    tokenizer: Tokenizer | None = None,
    *,
    layout: str = "flat",
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    settings: str | Path | None = None,
    origin: Mapping[str, Any] | None = None,
) -> int:
    """Write a directory that transformers and `livecc` load; it appears whole or not at all.

    Args:
        destination: the directory.
        config: the architecture.
        livecc: how the model was trained, written into config.json.
        weights: nested dict of numpy or jax arrays, or what reads them one by one, in the dtypes to
            store.
        tokenizer: its files are written too; None writes none.
        layout: of config.json, "flat" (2024) or "nested".
        overwrite: replace a checkpoint that is there.
        max_shard_bytes: largest weights file before sharding.
        settings: a directory whose `CARRIED` files are copied; those it lacks are made.
        origin: what the model card tells of the training (`model_card`).

    Returns:
        Bytes of weights written.

    Raises:
        CheckpointError: the destination exists, the parameters are not this architecture's, or the
            disk is too full or refuses.
    """
    if isinstance(weights, Mapping):
        weights = HeldWeights(config, weights)
    tensors = [
        Pending(name, weights.dtypes[name], shape, lambda name=name: weights.read(name))
        for name, shape in weights.shapes.items()
    ]
    sizes: Counter[str] = Counter()
    for t in tensors:
        sizes[str(t.dtype)] += t.size
    kind = sizes.most_common(1)[0][0]
    config_json = to_dict(config, livecc, kind, layout)
    with replacing(destination, overwrite, sizes.total()) as directory:
        write_json(directory / CONFIG, config_json)
        write_json(directory / GENERATION, _generation(config.ids))
        write_json(directory / PREPROCESSOR, _preprocessor(config))
        if tokenizer is not None:
            tokenizer.save(directory)
        if settings is not None:
            carry(settings, directory, CARRIED)
        total = write_directory(directory, tensors, max_shard_bytes)
        card = model_card(livecc, kind, sum(math.prod(t.shape) for t in tensors), origin)
        (directory / "README.md").write_text(card, encoding="utf-8")
    return total
