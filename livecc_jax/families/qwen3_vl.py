"""The Qwen3-VL family as plain data (the released configuration files and transformers 4.57).

It differs from Qwen2-VL in patches of 16 pixels, a tower with learned positions whose features after
three blocks join the first decoder layers (DeepStack), normalised queries and keys without biases in
the decoder, rotary frequencies whose axes are interleaved, and timestamps as text before each pair.
"""

from __future__ import annotations

from livecc_jax.families.family import Family, PatchRules

PATCHES = PatchRules(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_TEXT_NAMES = {
    "text/embed": "model.language_model.embed_tokens",
    "text/layers/input_norm": "model.language_model.layers.{i}.input_layernorm",
    "text/layers/attn/q": "model.language_model.layers.{i}.self_attn.q_proj",
    "text/layers/attn/k": "model.language_model.layers.{i}.self_attn.k_proj",
    "text/layers/attn/v": "model.language_model.layers.{i}.self_attn.v_proj",
    "text/layers/attn/q_norm": "model.language_model.layers.{i}.self_attn.q_norm",
    "text/layers/attn/k_norm": "model.language_model.layers.{i}.self_attn.k_norm",
    "text/layers/attn/o": "model.language_model.layers.{i}.self_attn.o_proj",
    "text/layers/post_norm": "model.language_model.layers.{i}.post_attention_layernorm",
    "text/layers/mlp/gate": "model.language_model.layers.{i}.mlp.gate_proj",
    "text/layers/mlp/up": "model.language_model.layers.{i}.mlp.up_proj",
    "text/layers/mlp/down": "model.language_model.layers.{i}.mlp.down_proj",
    "text/norm": "model.language_model.norm",
    "text/head": "lm_head",
}
WEIGHT_NAMES = {
    "vision/patch_embed": "model.visual.patch_embed.proj",
    "vision/pos_embed": "model.visual.pos_embed",
    "vision/blocks/norm1": "model.visual.blocks.{i}.norm1",
    "vision/blocks/attn/qkv": "model.visual.blocks.{i}.attn.qkv",
    "vision/blocks/attn/proj": "model.visual.blocks.{i}.attn.proj",
    "vision/blocks/norm2": "model.visual.blocks.{i}.norm2",
    "vision/blocks/mlp/fc1": "model.visual.blocks.{i}.mlp.linear_fc1",
    "vision/blocks/mlp/fc2": "model.visual.blocks.{i}.mlp.linear_fc2",
    "vision/merger/norm": "model.visual.merger.norm",
    "vision/merger/fc1": "model.visual.merger.linear_fc1",
    "vision/merger/fc2": "model.visual.merger.linear_fc2",
    "vision/deepstack/norm": "model.visual.deepstack_merger_list.{i}.norm",
    "vision/deepstack/fc1": "model.visual.deepstack_merger_list.{i}.linear_fc1",
    "vision/deepstack/fc2": "model.visual.deepstack_merger_list.{i}.linear_fc2",
    **_TEXT_NAMES,
}

_TOWER = {"family": "qwen3_vl", "heads": 16, "position_grid": 48}
_SMALL_TOWER = {"depth": 24, "width": 1024, "mlp": 4096, "deepstack": (5, 11, 17), **_TOWER}
_LARGE_TOWER = {"depth": 27, "width": 1152, "mlp": 4304, "deepstack": (8, 16, 24), **_TOWER}
DECODER = {"qkv_bias": False, "qk_norm": True, "interleaved": True}
_TEXT = {
    "vocab_size": 151936, "kv_heads": 8, "head_width": 128, "rope_theta": 5_000_000.0,
    "mrope_section": (24, 20, 20), "max_positions": 262_144, **DECODER,
}  # fmt: skip
PRESETS = {
    "qwen3-tiny": {
        "text": {
            "vocab_size": 151936, "width": 64, "layers": 4, "heads": 4, "kv_heads": 2, "mlp": 128,
            "head_width": 24, "mrope_section": (6, 3, 3), "tied": True, **DECODER,
        },
        "vision": {
            "family": "qwen3_vl", "depth": 3, "width": 32, "heads": 2, "mlp": 64, "position_grid": 8,
            "deepstack": (0, 1, 2),
        },
    },
    "qwen3-2b": {
        "text": {"width": 2048, "layers": 28, "heads": 16, "mlp": 6144, "tied": True, **_TEXT},
        "vision": _SMALL_TOWER,
    },
    "qwen3-4b": {
        "text": {"width": 2560, "layers": 36, "heads": 32, "mlp": 9728, "tied": True, **_TEXT},
        "vision": _SMALL_TOWER,
    },
    "qwen3-8b": {
        "text": {"width": 4096, "layers": 36, "heads": 32, "mlp": 12288, **_TEXT},
        "vision": _LARGE_TOWER,
    },
    "qwen3-32b": {
        "text": {"width": 5120, "layers": 64, "heads": 64, "mlp": 25600, **_TEXT},
        "vision": _LARGE_TOWER,
    },
}  # fmt: skip

FAMILY = Family(
    name="Qwen3-VL",
    model_type="qwen3_vl",
    architecture="Qwen3VLForConditionalGeneration",
    patches=PATCHES,
    weight_names=WEIGHT_NAMES,
    # Both eras of transformers write the names above; other tools leave out `model.`.
    other_prefixes={"visual.": "model.visual.", "language_model.": "model.language_model."},
    decoder=DECODER,
    rope_theta=5_000_000.0,
    vision_fields={
        "depth": ("depth", 27),
        "width": ("hidden_size", 1152),
        "heads": ("num_heads", 16),
        "mlp": ("intermediate_size", 4304),
        "position_grid": ("num_position_embeddings", 2304),  # of the whole grid on disk
        "deepstack": ("deepstack_visual_indexes", (8, 16, 24)),
    },
    vision_fixed={
        "hidden_act": "gelu_pytorch_tanh",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    },
    vision_out="out_hidden_size",
    text_model_type="qwen3_vl_text",
    layouts=("nested",),
    presets=PRESETS,
    timestamps=True,
    pad_id=False,
    preprocessors={
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        "video_preprocessor_config.json": {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": 4_096, "longest_edge": 25_165_824},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
    },
)
