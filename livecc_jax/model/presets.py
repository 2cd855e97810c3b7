"""Named sizes. 2b, 7b and 72b are Qwen2-VL's published numbers; the small ones are ours."""

from __future__ import annotations

from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig

_VISION = VisionConfig(depth=32, width=1280, heads=16, mlp=5120)

PRESETS: dict[str, ModelConfig] = {
    # Small enough for tests; every structural feature of the large ones.
    "tiny": ModelConfig(
        TextConfig(
            vocab_size=151936, width=64, layers=2, heads=4, kv_heads=2, mlp=128,
            mrope_section=(2, 3, 3), tied=True,
        ),
        VisionConfig(depth=2, width=32, heads=2, mlp=64),
    ),
    # The demo's model: learns one clip on two CPU cores in a minute or two.
    "small": ModelConfig(
        TextConfig(
            vocab_size=151936, width=256, layers=4, heads=4, kv_heads=2, mlp=768,
            mrope_section=(8, 12, 12), tied=True,
        ),
        VisionConfig(depth=4, width=128, heads=4, mlp=256),
    ),
    "2b": ModelConfig(
        TextConfig(
            vocab_size=151936, width=1536, layers=28, heads=12, kv_heads=2, mlp=8960, tied=True
        ),
        _VISION,
    ),
    "7b": ModelConfig(
        TextConfig(vocab_size=152064, width=3584, layers=28, heads=28, kv_heads=4, mlp=18944),
        _VISION,
    ),
    "72b": ModelConfig(
        TextConfig(vocab_size=152064, width=8192, layers=80, heads=64, kv_heads=8, mlp=29568),
        _VISION,
    ),
}  # fmt: skip


def preset(name: str) -> ModelConfig:
    """The configuration called `name`. Raises ConfigError when there is none."""
    if name not in PRESETS:
        raise ConfigError(f"there is no model preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
