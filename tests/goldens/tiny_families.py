"""Small models of the newer families in numpy: configurations, weights, inputs.

They are to Qwen2.5-VL and Qwen3-VL what `tiny_weights` is to Qwen2-VL: our side and transformers' side
of the parity test share them, so the goldens hold outputs of transformers alone.
"""

import numpy as np

from tests.goldens import tiny_weights as tiny

_IDS = {
    "bos_token_id": tiny.END,
    "eos_token_id": tiny.IM_END,
    "vision_start_token_id": tiny.VISION_START,
    "vision_end_token_id": tiny.VISION_END,
    "image_token_id": tiny.IMAGE,
    "video_token_id": tiny.VIDEO,
}
_TEXT = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
}

# config.json as the released checkpoints have it: flat, and nested.
CONFIGS = {
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        **_TEXT,
        **_IDS,
        "vision_token_id": tiny.VISION_PAD,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "use_sliding_window": False,
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 44,
            "num_heads": 2,
            "hidden_act": "silu",
            "in_chans": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "window_size": 56,  # 2 x 2 merged patches, so that small pictures have ragged edges
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "image_token_id": tiny.IMAGE,
        "video_token_id": tiny.VIDEO,
        "vision_start_token_id": tiny.VISION_START,
        "vision_end_token_id": tiny.VISION_END,
        "text_config": {
            "model_type": "qwen3_vl_text",
            **_TEXT,
            "bos_token_id": tiny.END,
            "eos_token_id": tiny.IM_END,
            "attention_bias": False,
            "head_dim": 24,  # not hidden_size / heads
            "rope_theta": 10000.0,
            "rope_scaling": {
                "mrope_interleaved": True, "mrope_section": [6, 3, 3], "rope_type": "default",
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 4,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 44,
            "num_heads": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 25,
            "deepstack_visual_indexes": [0, 2, 3],
        },
    },
}  # fmt: skip
TIMESTAMPS = {"qwen2_5_vl": False, "qwen3_vl": True}  # whether text stands before each frame pair
VALUES = {"qwen2_5_vl": 1176, "qwen3_vl": 1536}  # of one patch
MEAN_STD = {
    "qwen2_5_vl": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "qwen3_vl": ([0.5] * 3, [0.5] * 3),
}


def config_json(family, tied):
    """Returns config.json of the family's small model."""
    config = CONFIGS[family] | {"tie_word_embeddings": tied}
    if "text_config" in config:
        config["text_config"] = config["text_config"] | {"tie_word_embeddings": tied}
    return config


def conversation(family, case):
    """Returns (tokens int32 [T], [(kind, (t, h, w)), ...]), grids in patches."""
    if not TIMESTAMPS[family]:
        return tiny.conversation(case)
    rng, tokens, visuals = tiny.generator(f"{family} {case}"), [], []
    for num_before, turn_visuals, num_answer in tiny.CASES[case]:
        tokens += [tiny.IM_START, *rng.randint(0, 100, num_before)]
        for kind, (t, h, w) in turn_visuals:
            for _ in range(t):
                if kind == tiny.VIDEO:
                    tokens += list(rng.randint(0, 100, 4))
                tokens += [tiny.VISION_START, *[kind] * (h * w // 4), tiny.VISION_END]
            visuals.append((kind, (t, h, w)))
        tokens += [tiny.IM_END, tiny.IM_START, *rng.randint(0, 100, num_answer), tiny.IM_END]
    return np.array(tokens, np.int32), visuals


def patches(family, case):
    """Returns the patches of all visuals of a case in order, uint8 [n, values of a patch]."""
    _, visuals = conversation(family, case)
    count = sum(t * h * w for _, (t, h, w) in visuals)
    shape = (count, VALUES[family])
    return tiny.generator(f"{family} {case} patches").randint(0, 256, shape).astype(np.uint8)


def normalized(family, values):
    """Returns uint8 patches normalised per channel, float32."""
    mean, std = (np.repeat(x, VALUES[family] // 3) for x in MEAN_STD[family])
    return ((values / 255.0 - mean) / std).astype(np.float32)
