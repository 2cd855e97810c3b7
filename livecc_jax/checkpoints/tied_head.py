"""Decides whether a HuggingFace checkpoint's output head is its embedding.

A nested config.json has the field `tie_word_embeddings` twice, at the top and in text_config, and the
two may disagree; the weights may also contradict both. As in transformers 5, the field at the top
decides, and a head of its own in the weights is used whatever the fields say.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from livecc_jax.checkpoints.hf_config import CONFIG, tie_flags
from livecc_jax.checkpoints.hf_tensors import equal_bits
from livecc_jax.checkpoints.json_fields import read_json
from livecc_jax.checkpoints.safetensors import TensorInfo, read_directory
from livecc_jax.checkpoints.weight_names import HEAD, canonical_name, embed_name
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig

log = logging.getLogger(__name__)


def resolve_tied_head(directory: Path, config: ModelConfig) -> ModelConfig:
    """Returns the configuration with `text.tied` as the weights show it.

    Args:
        directory: Directory in HuggingFace layout.
        config: Its configuration, as config.json says.
    """
    if True not in tie_flags(read_json(directory / CONFIG)):
        return config
    tensors: dict[str, TensorInfo] = {}
    try:
        for name, tensor in read_directory(directory):
            tensors.setdefault(canonical_name(name, config.family), tensor)
    except CheckpointError:
        return config  # damaged weights: loading them says what is wrong
    head, embedding = tensors.get(HEAD), tensors.get(embed_name(tensors))
    if head is None:
        tied = True  # one of the fields says so, and there is nothing else that the head could be
    elif embedding is not None and not equal_bits(head, embedding):
        tied = False
        if config.text.tied:
            log.warning(
                "%s: says that the head is the embedding, but the weights hold another %s, which is "
                "used; transformers 4 may use the embedding",
                directory / CONFIG,
                HEAD,
            )
    else:
        tied = config.text.tied
    return dataclasses.replace(config, text=dataclasses.replace(config.text, tied=tied))
