"""A text-only checkpoint with random weights, in HuggingFace layout."""

import json
import shutil

import numpy as np
import safetensors.numpy

from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig


def write_text_only(path, tokenizer, vocab_size, tied=True, seed=0, std=0.2):
    """Writes a small Qwen2 checkpoint; `tokenizer` is a directory whose files are copied."""
    path.mkdir(parents=True)
    config = TextConfig(vocab_size, 32, 2, 4, 2, 48, 1e4, (4, 0, 0), 1e-6, tied)
    rng = np.random.default_rng(seed)
    tensors = {}
    for entry in weight_name_table(ModelConfig(config, VisionConfig(1, 4, 1, 4))):
        if entry.path.startswith("text/"):
            for name in entry.names:
                values = rng.normal(0, std, entry.hf_shape) + ("norm" in name)
                tensors[name] = values.astype(np.float32)
    safetensors.numpy.save_file(tensors, str(path / "model.safetensors"))
    fields = {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.mlp,
        "vocab_size": vocab_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "max_position_embeddings": 4096,
    }
    (path / "config.json").write_text(json.dumps(fields))
    for file in tokenizer.iterdir():
        shutil.copy(file, path)
    return path
