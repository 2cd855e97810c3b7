"""The Qwen2-VL family as plain data: patches, pixel statistics, special tokens and chat pieces.

Lower layers take every number and every spelling that depends on the family from here (Qwen2-VL,
arXiv 2409.12191, and the processor files published with it).
"""

from __future__ import annotations

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
