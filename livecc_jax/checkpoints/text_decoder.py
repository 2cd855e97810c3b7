"""Opens a decoder that reads text alone: that of a vision-language checkpoint, or a text-only one.

Text-only checkpoints are those of Qwen2 and Qwen2.5 (`model_type` "qwen2"), which have the same decoder
as Qwen2-VL, with plain rotary positions. Of a text-only checkpoint nothing but this is opened: no
command streams it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.finite import ValueCheck, quiet_cast
from livecc_jax.checkpoints.hf_config import (
    CONFIG,
    EPSILONS,
    MAX_HEADS,
    MAX_ID,
    MAX_LAYERS,
    MAX_VOCABULARY,
    THETAS,
)
from livecc_jax.checkpoints.json_fields import JsonFields, read_json
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.safetensors import TensorInfo, read_directory
from livecc_jax.checkpoints.weight_names import HEAD, canonical_name, is_derived, weight_name_table
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.qwen2_vl import Params

TEXT_ONLY = "qwen2"  # `model_type` of Qwen2 and Qwen2.5
TEXT = "text/"  # paths of the decoder's parameters
# Fills the place of a vision tower where the table of weights wants one; no weight of it is used.
_NO_VISION = VisionConfig(depth=1, width=4, heads=1, mlp=4)


@dataclass(frozen=True)
class TextDecoder:
    """A decoder with its weights on the host.

    Attributes:
        path: The checkpoint.
        config: Sizes of the decoder.
        params: Parameters of `model.decoder.Decoder`, nested dict of numpy arrays.
        name: Name of the checkpoint with a digest of its weights, for reports.
    """

    path: Path
    config: TextConfig
    params: Params
    name: str


def open_text_decoder(path: str | Path, dtype: Any = None) -> TextDecoder:
    """Opens the decoder of a checkpoint.

    Args:
        path: Any checkpoint that `open_checkpoint` opens, or a directory of a text-only Qwen2 or
            Qwen2.5 model in HuggingFace layout.
        dtype: Dtype of the weights; None keeps that in which they are stored.

    Raises:
        CheckpointError: It is none of these, or its weights do not fit its config.json.
    """
    path = Path(path).absolute()
    if is_text_only(path):
        config = _text_config(path)
        params = _load(path, config, dtype)
    else:
        checkpoint = open_checkpoint(path)
        config = checkpoint.config.text
        params = checkpoint.load_params(dtype=dtype)["text"]
    return TextDecoder(path, config, params, f"{path.name} {_digest(params)}")


def is_text_only(path: Path) -> bool:
    """Whether a directory's config.json is that of a text-only model."""
    if not (path / CONFIG).is_file():
        return False
    data = read_json(path / CONFIG)
    return isinstance(data, dict) and data.get("model_type") == TEXT_ONLY


def _text_config(path: Path) -> TextConfig:
    text = JsonFields(read_json(path / CONFIG), path / CONFIG)
    text.only("hidden_act", "silu")
    text.only("use_sliding_window", False, bool)
    if text.data.get("quantization_config") is not None:
        raise text.fail("quantization_config", "is set; quantised weights are not supported")
    rope = text.inside("rope_parameters") if text.data.get("rope_parameters") is not None else text
    if text.data.get("rope_scaling") is not None or rope.data.get("rope_type", "default") != "default":
        raise text.fail("rope_scaling", "is set; only plain rotary positions are supported")
    heads = text.count("num_attention_heads", most=MAX_HEADS)
    width = text.count("hidden_size")
    tied = bool(text.get("tie_word_embeddings", bool, False))
    try:
        return TextConfig(
            vocab_size=text.count("vocab_size", most=MAX_VOCABULARY),
            width=width,
            layers=text.count("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            kv_heads=text.count("num_key_value_heads", heads, most=MAX_HEADS),
            mlp=text.count("intermediate_size"),
            rope_theta=rope.positive("rope_theta", 10_000.0, **THETAS),
            # Every frequency follows the first of three axes, which is the plain position.
            mrope_section=(width // heads // 2, 0, 0),
            norm_eps=text.positive("rms_norm_eps", 1e-6, **EPSILONS),
            tied=tied,
            max_positions=text.count("max_position_embeddings", 32768, most=MAX_ID),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path / CONFIG}: {error}") from error


def _load(path: Path, config: TextConfig, dtype: Any) -> Params:
    """Returns the parameters of a text-only checkpoint."""
    tensors: dict[str, TensorInfo] = {}
    for name, tensor in read_directory(path):
        if not is_derived(name):
            tensors.setdefault(canonical_name(name), tensor)
    entries = [e for e in weight_name_table(ModelConfig(config, _NO_VISION)) if e.path.startswith(TEXT)]
    expected = {name: e.hf_shape for e in entries for name in e.names}
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"extra {name}" for name in tensors if name not in expected and name != HEAD]
    problems += [
        f"{name} has shape {tensors[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        rest = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(
            f"{path}: the weights do not fit {CONFIG}: {'; '.join(problems[:10])}{rest}"
        )
    check, flat = ValueCheck(path), {}
    for entry in entries:
        layers = []
        for name in entry.names:
            tensor = tensors[name]
            stored = tensor.read_rows(0, tensor.shape[0])
            wanted = np.dtype(dtype or stored.dtype)
            check.see(name, stored, wanted)
            layers.append(np.ascontiguousarray(entry.from_hf(quiet_cast(stored, wanted))))
        flat[entry.path.removeprefix(TEXT)] = np.stack(layers) if entry.stacked else layers[0]
    check.raise_problems()
    return traverse_util.unflatten_dict(flat, sep="/")


def _digest(params: Params) -> str:
    """Returns a short digest of the weights: shapes, dtypes and evenly spaced values."""
    digest = hashlib.sha256()
    for name, array in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        flat = np.asarray(jax.device_get(array)).reshape(-1)
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(np.ascontiguousarray(flat[:: max(1, flat.size // 1024)]).tobytes())
    return digest.hexdigest()[:12]
