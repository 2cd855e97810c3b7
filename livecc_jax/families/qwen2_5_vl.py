"""The Qwen2.5-VL family as plain data (arXiv 2502.13923, and the files published with it).

It differs from Qwen2-VL in its vision tower (RMSNorm, SwiGLU, attention within windows in most blocks)
and in temporal positions, which follow absolute time.
"""

from __future__ import annotations

from livecc_jax.families import qwen2_vl
from livecc_jax.families.family import Family

_NAMES = {
    module: name
    for module, name in qwen2_vl.WEIGHT_NAMES.items()
    if not module.startswith("vision/blocks/mlp")
} | {
    "vision/blocks/mlp/gate": "visual.blocks.{i}.mlp.gate_proj",
    "vision/blocks/mlp/up": "visual.blocks.{i}.mlp.up_proj",
    "vision/blocks/mlp/down": "visual.blocks.{i}.mlp.down_proj",
}

# Sizes of the released models. The tower of the two small ones is narrower in its feed-forward layer.
_WINDOWS = {
    "family": "qwen2_5_vl", "window": 8, "full_blocks": (7, 15, 23, 31), "pair_positions": 2,
}  # fmt: skip
_VISION = {"depth": 32, "width": 1280, "heads": 16, "mlp": 3420, **_WINDOWS}
_LARGE_VISION = _VISION | {"mlp": 3456}
_TEXT = {"max_positions": 128_000}
PRESETS = {
    "qwen2.5-tiny": {
        "text": {
            "vocab_size": 151936, "width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 128,
            "mrope_section": (2, 3, 3), "tied": True,
        },
        "vision": {
            "depth": 2, "width": 32, "heads": 2, "mlp": 44, **_WINDOWS, "full_blocks": (1,),
        },
    },
    "qwen2.5-3b": {
        "text": {
            "vocab_size": 151936, "width": 2048, "layers": 36, "heads": 16, "kv_heads": 2, "mlp": 11008,
            "tied": True, **_TEXT,
        },
        "vision": _VISION,
    },
    "qwen2.5-7b": {
        "text": {
            "vocab_size": 152064, "width": 3584, "layers": 28, "heads": 28, "kv_heads": 4, "mlp": 18944,
            **_TEXT,
        },
        "vision": _VISION,
    },
    "qwen2.5-32b": {
        "text": {
            "vocab_size": 152064, "width": 5120, "layers": 64, "heads": 40, "kv_heads": 8, "mlp": 27648,
            **_TEXT,
        },
        "vision": _LARGE_VISION,
    },
    "qwen2.5-72b": {
        "text": {
            "vocab_size": 152064, "width": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "mlp": 29568,
            **_TEXT,
        },
        "vision": _LARGE_VISION,
    },
}  # fmt: skip

FAMILY = Family(
    name="Qwen2.5-VL",
    model_type="qwen2_5_vl",
    architecture="Qwen2_5_VLForConditionalGeneration",
    patches=qwen2_vl.PATCHES,
    weight_names=_NAMES,
    other_prefixes=qwen2_vl.LATER_PREFIXES,
    vision_fields={
        "depth": ("depth", 32),
        "width": ("hidden_size", None),  # the class's default, 3584, is no tower that was released
        "heads": ("num_heads", 16),
        "mlp": ("intermediate_size", 3420),
        "window": ("window_size", 112),  # pixels on disk, patches in `VisionConfig`
        "full_blocks": ("fullatt_block_indexes", (7, 15, 23, 31)),
        "pair_positions": ("tokens_per_second", 4),  # a frame pair at 2 FPS is one second
    },
    vision_fixed={
        "hidden_act": "silu",
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    },
    vision_out="out_hidden_size",
    text_model_type="qwen2_5_vl_text",
    pair_positions=2,
    presets=PRESETS,
    preprocessors=qwen2_vl.PREPROCESSORS
    | {
        "preprocessor_config.json": qwen2_vl.PREPROCESSORS["preprocessor_config.json"]
        | {"processor_class": "Qwen2_5_VLProcessor"}
    },
)
