"""The architecture as numbers: one dataclass for every size of the Qwen2-VL family."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from livecc_jax.errors import ConfigError
from livecc_jax.families.qwen2_vl import CHANNELS, MERGE, PATCH, TEMPORAL


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower: a ViT over 14x14 patches two frames deep, then a 2x2 merger.

    Raises ConfigError when the heads cannot have rotary positions of two dimensions.
    """

    depth: int  # number of blocks
    width: int
    heads: int
    mlp: int  # hidden width of a block's feed-forward layer
    patch_size: int = PATCH
    temporal_patch_size: int = TEMPORAL
    merge_size: int = MERGE
    channels: int = CHANNELS

    def __post_init__(self) -> None:
        if self.width % self.heads or self.head_dim % 4:
            raise ConfigError(
                f"vision.width {self.width} over vision.heads {self.heads} must give a multiple of 4"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Values in one patch: channels x frames x height x width (1176 for Qwen2-VL)."""
        return self.channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the decoder: grouped-query attention, SwiGLU, RMSNorm, multimodal rotary positions.

    Raises ConfigError when widths, heads and rotary sections do not fit together, or `rope_theta` or
    `norm_eps` is not a positive number.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int  # hidden width of a layer's feed-forward layer
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)  # temporal, height, width
    norm_eps: float = 1e-6
    tied: bool = False  # the output head is the embedding
    max_positions: int = 32768

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"text.width {self.width} is not a multiple of text.heads {self.heads}")
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not 0 < value < math.inf:  # also refuses NaN
                raise ConfigError(f"text.{name} must be a positive number, not {value}")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"text.heads {self.heads} is not a multiple of text.kv_heads {self.kv_heads}"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ConfigError(
                f"text.mrope_section {self.mrope_section} must sum to half the head dimension "
                f"{self.head_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that the network's configuration names; the defaults are Qwen2-VL's."""

    bos: int = 151643
    eos: int = 151645
    vision_start: int = 151652
    vision_end: int = 151653
    vision_pad: int = 151654
    image_pad: int = 151655
    video_pad: int = 151656


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a whole vision-language model."""

    text: TextConfig
    vision: VisionConfig
    ids: SpecialIds = field(default_factory=SpecialIds)
