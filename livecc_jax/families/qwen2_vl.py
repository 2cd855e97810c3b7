"""The Qwen2-VL family as plain data: patches, pixel statistics, weight names, special tokens, chat.

Lower layers take every number and every spelling that depends on the family from here (Qwen2-VL,
arXiv 2409.12191, and the processor files published with it).
"""

from __future__ import annotations

from livecc_jax.families.family import Family, PatchRules

MODEL_TYPE = "qwen2_vl"  # `model_type` in config.json
ARCHITECTURE = "Qwen2VLForConditionalGeneration"

# Patches: what the vision tower takes.
PATCH = 14  # pixels along one side of a patch
TEMPORAL = 2  # frames that a patch spans: one frame pair
MERGE = 2  # patches along one side of the block that the merger fuses into one token
CHANNELS = 3
PATCH_VALUES = CHANNELS * TEMPORAL * PATCH * PATCH  # 1176 values, ordered channel, frame, row, column
MERGED_PATCHES = MERGE * MERGE  # patches that make one token
IMAGE_FACTOR = PATCH * MERGE  # both sides of a resized frame are multiples of this many pixels

# CLIP's channel statistics, over pixel values scaled to [0, 1].
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

# HuggingFace's processor that goes with a checkpoint, and the pixel limits of its release.
PROCESSOR = "Qwen2VLProcessor"
IMAGE_PROCESSOR = "Qwen2VLImageProcessor"
MIN_PIXELS, MAX_PIXELS = 3136, 12_845_056

# Weights: the module in our parameter tree -> the module in HuggingFace's 2024 layout, which every
# version of transformers and every serving stack loads; {i} is the number of a layer.
WEIGHT_NAMES = {
    "vision/patch_embed": "visual.patch_embed.proj",
    "vision/blocks/norm1": "visual.blocks.{i}.norm1",
    "vision/blocks/attn/qkv": "visual.blocks.{i}.attn.qkv",
    "vision/blocks/attn/proj": "visual.blocks.{i}.attn.proj",
    "vision/blocks/norm2": "visual.blocks.{i}.norm2",
    "vision/blocks/mlp/fc1": "visual.blocks.{i}.mlp.fc1",
    "vision/blocks/mlp/fc2": "visual.blocks.{i}.mlp.fc2",
    "vision/merger/norm": "visual.merger.ln_q",
    "vision/merger/fc1": "visual.merger.mlp.0",
    "vision/merger/fc2": "visual.merger.mlp.2",
    "text/embed": "model.embed_tokens",
    "text/layers/input_norm": "model.layers.{i}.input_layernorm",
    "text/layers/attn/q": "model.layers.{i}.self_attn.q_proj",
    "text/layers/attn/k": "model.layers.{i}.self_attn.k_proj",
    "text/layers/attn/v": "model.layers.{i}.self_attn.v_proj",
    "text/layers/attn/o": "model.layers.{i}.self_attn.o_proj",
    "text/layers/post_norm": "model.layers.{i}.post_attention_layernorm",
    "text/layers/mlp/gate": "model.layers.{i}.mlp.gate_proj",
    "text/layers/mlp/up": "model.layers.{i}.mlp.up_proj",
    "text/layers/mlp/down": "model.layers.{i}.mlp.down_proj",
    "text/norm": "model.norm",
    "text/head": "lm_head",
}
# Prefixes of the layouts since transformers 4.52 -> the 2024 prefixes.
LATER_PREFIXES = {"model.language_model.": "model.", "model.visual.": "visual."}

# Special tokens: the name in code -> the spelling in the vocabulary.
SPECIAL_TOKENS = {
    "endoftext": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image_pad": "<|image_pad|>",
    "video_pad": "<|video_pad|>",
}

# The system turn of a conversation that does not begin with one.
SYSTEM_PROMPT = "You are a helpful assistant."

# Jinja template that is saved beside a tokenizer that comes without one.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Sizes of the network by name, in the fields of `model.config`. 2b, 7b and 72b are the published ones.
_VISION = {"depth": 32, "width": 1280, "heads": 16, "mlp": 5120}
PRESETS = {
    # Ours, small enough for tests, with every structural feature of the large ones.
    "tiny": {
        "text": {
            "vocab_size": 151936, "width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 128,
            "mrope_section": (2, 3, 3), "tied": True,
        },
        "vision": {"depth": 2, "width": 32, "heads": 2, "mlp": 64},
    },
    # Ours, for the demo: it learns one clip on two CPU cores in a minute or two.
    "small": {
        "text": {
            "vocab_size": 151936, "width": 256, "layers": 4, "heads": 4, "kv_heads": 2, "mlp": 768,
            "mrope_section": (8, 12, 12), "tied": True,
        },
        "vision": {"depth": 4, "width": 128, "heads": 4, "mlp": 256},
    },
    "2b": {
        "text": {
            "vocab_size": 151936, "width": 1536, "layers": 28, "heads": 12, "kv_heads": 2, "mlp": 8960,
            "tied": True,
        },
        "vision": _VISION,
    },
    "7b": {
        "text": {
            "vocab_size": 152064, "width": 3584, "layers": 28, "heads": 28, "kv_heads": 4, "mlp": 18944,
        },
        "vision": _VISION,
    },
    "72b": {
        "text": {
            "vocab_size": 152064, "width": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "mlp": 29568,
        },
        "vision": _VISION,
    },
}  # fmt: skip

PATCHES = PatchRules(size=PATCH, mean=IMAGE_MEAN, std=IMAGE_STD)
PREPROCESSORS = {
    "preprocessor_config.json": {
        "image_processor_type": IMAGE_PROCESSOR,
        "processor_class": PROCESSOR,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL,
        "merge_size": MERGE,
    }
}

FAMILY = Family(
    name="Qwen2-VL",
    model_type=MODEL_TYPE,
    architecture=ARCHITECTURE,
    patches=PATCHES,
    weight_names=WEIGHT_NAMES,
    other_prefixes=LATER_PREFIXES,
    vision_fields={
        "depth": ("depth", 32),
        "width": ("embed_dim", 1280),
        "heads": ("num_heads", 16),
        "mlp": ("mlp_ratio", 4),  # a multiple of the width on disk
    },
    vision_fixed={
        "hidden_act": "quick_gelu",
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL,
        "spatial_merge_size": MERGE,
    },
    vision_out="hidden_size",
    text_model_type="qwen2_vl_text",
    presets=PRESETS,
    preprocessors=PREPROCESSORS,
)
