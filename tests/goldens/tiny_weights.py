"""A small Qwen2-VL in numpy: its configuration, its weights derived from their names, its inputs.

Our side and transformers' side of the parity test use it, so the goldens only hold outputs of
transformers. It uses numpy's legacy generator, whose stream never changes.
"""

import zlib

import numpy as np

VOCAB = 112
VISION_START, VISION_END, VIDEO, IM_END, IM_START, IMAGE, VISION_PAD, END = range(100, 108)

# config.json as published checkpoints have it.
CONFIG = {
    "model_type": "qwen2_vl",
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "max_position_embeddings": 512,
    "use_sliding_window": False,
    "bos_token_id": END,
    "eos_token_id": IM_END,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "vision_token_id": VISION_PAD,
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_config": {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "mlp_ratio": 3,
        "num_heads": 2,
        "in_chans": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}

# Turns: (tokens before the visuals, visuals as (kind, (frame pairs, rows, columns)), answer tokens).
CASES = {
    "text": [(9, [], 7)],
    "image": [(4, [(IMAGE, (1, 6, 4))], 6)],
    "videos": [
        (6, [(VIDEO, (3, 4, 6))], 5),
        (3, [(VIDEO, (1, 4, 6))], 1),
        (3, [(VIDEO, (1, 2, 10))], 4),
    ],
    "turns": [
        (2, [(IMAGE, (1, 4, 4)), (VIDEO, (2, 2, 6))], 5),
        (8, [], 6),
        (5, [(IMAGE, (1, 2, 2))], 3),
        (4, [], 4),
    ],
    # More frame pairs than half the longer side: where transformers 5 departs from 4.57 and earlier.
    "long_video": [(5, [(VIDEO, (20, 2, 4))], 6), (4, [], 3)],
}


def generator(name):
    """Returns a generator that depends on the name."""
    return np.random.RandomState(zlib.crc32(name.encode()))


def weight(name, shape):
    """Returns float32 weights of a HuggingFace tensor, scaled so that activations stay large."""
    values = generator(name).standard_normal(shape)
    if name.endswith("bias"):
        values = 0.2 * values
    elif len(shape) == 1:
        values = 1 + 0.2 * values
    elif "patch_embed" in name:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif "embed_tokens" in name:
        values = 0.3 * values
    else:
        values = values / np.sqrt(shape[1])
    return values.astype(np.float32)


def conversation(case):
    """Returns (tokens int32 [T], [(kind, (t, h, w)), ...])."""
    rng, tokens, visuals = generator(case), [], []
    for num_before, turn_visuals, num_answer in CASES[case]:
        tokens += [IM_START, *rng.randint(0, 100, num_before)]
        for kind, (t, h, w) in turn_visuals:
            tokens += [VISION_START, *[kind] * (t * h * w // 4), VISION_END]
            visuals.append((kind, (t, h, w)))
        tokens += [IM_END, IM_START, *rng.randint(0, 100, num_answer), IM_END]
    return np.array(tokens, np.int32), visuals


def patches(case):
    """Returns the patches of all visuals of a case in order, uint8 [n, 1176]."""
    _, visuals = conversation(case)
    count = sum(t * h * w for _, (t, h, w) in visuals)
    return generator(case + " patches").randint(0, 256, (count, 1176)).astype(np.uint8)


def normalized(values):
    """Returns uint8 patches normalised per channel as by CLIP's processor, float32."""
    mean = np.repeat([0.48145466, 0.4578275, 0.40821073], 392)
    std = np.repeat([0.26862954, 0.26130258, 0.27577711], 392)
    return ((values / 255.0 - mean) / std).astype(np.float32)
