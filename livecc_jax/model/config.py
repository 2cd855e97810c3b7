"""The architecture as numbers: one dataclass for every size of every family."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from livecc_jax.errors import ConfigError
from livecc_jax.families import FAMILIES
from livecc_jax.families.family import Family


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower: a ViT over patches two frames deep, then a 2x2 merger.

    The fields after `family` are those of some families alone, and 0 or empty in the others.

    Attributes:
        depth: Number of blocks.
        width: Width of a block.
        heads: Attention heads of a block.
        mlp: Hidden width of a block's feed-forward layer.
        family: `model_type` of the family whose tower it is.
        window: Patches along one side of the windows that most blocks attend within; 0 is a whole
            frame.
        full_blocks: Blocks that attend within the whole frame pair although there are windows.
        pair_positions: Temporal positions from a frame pair to the next one at 2 FPS.
        position_grid: Side of the square table of learned positions; 0 is no table.
        deepstack: Blocks whose features join the first decoder layers (DeepStack, arXiv 2406.04334).

    Raises ConfigError when the heads cannot have rotary positions of two dimensions, or when the family
    is unknown or a block's number too large.
    """

    depth: int
    width: int
    heads: int
    mlp: int
    family: str = "qwen2_vl"
    window: int = 0
    full_blocks: tuple[int, ...] = ()
    pair_positions: int = 1
    position_grid: int = 0
    deepstack: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"vision.family {self.family!r} is not one of {', '.join(FAMILIES)}")
        if self.width % self.heads or self.head_dim % 4:
            raise ConfigError(
                f"vision.width {self.width} over vision.heads {self.heads} must give a multiple of 4"
            )
        for name in ("full_blocks", "deepstack"):
            blocks = getattr(self, name)
            if any(not 0 <= block < self.depth for block in blocks) or len({*blocks}) < len(blocks):
                raise ConfigError(
                    f"vision.{name} {blocks} must be different blocks from 0 to {self.depth - 1}"
                )
        if list(self.deepstack) != sorted(self.deepstack):
            raise ConfigError(f"vision.deepstack {self.deepstack} must be in ascending order")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def patch_size(self) -> int:
        """Pixels along one side of a patch."""
        return FAMILIES[self.family].patches.size

    @property
    def temporal_patch_size(self) -> int:
        """Frames that a patch spans."""
        return FAMILIES[self.family].patches.temporal

    @property
    def merge_size(self) -> int:
        """Patches along one side of the block that becomes one token."""
        return FAMILIES[self.family].patches.merge

    @property
    def channels(self) -> int:
        """Colour channels of a patch."""
        return FAMILIES[self.family].patches.channels

    @property
    def patch_values(self) -> int:
        """Values in one patch: channels x frames x height x width (1176 for Qwen2-VL)."""
        return FAMILIES[self.family].patches.values


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the decoder: grouped-query attention, SwiGLU, RMSNorm, multimodal rotary positions.

    Attributes:
        vocab_size: Rows of the embedding.
        width: Width of the residual stream.
        layers: Number of layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        mlp: Hidden width of a layer's feed-forward layer.
        rope_theta: Base of the rotary wavelengths.
        mrope_section: Numbers of frequencies that follow the temporal, height and width positions.
        norm_eps: Epsilon of every RMSNorm.
        tied: Whether the output head is the embedding.
        max_positions: Longest context that the model was made for.
        head_width: Width of one head; 0 is width / heads.
        qkv_bias: Whether queries, keys and values have biases.
        qk_norm: Whether each head's queries and keys go through an RMSNorm before they are rotated.
        interleaved: Whether the frequencies of the three axes take turns (T H W T H W ...), and do not
            lie side by side.

    Raises ConfigError when widths, heads and rotary sections do not fit together, or `rope_theta` or
    `norm_eps` is not a positive number.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    norm_eps: float = 1e-6
    tied: bool = False
    max_positions: int = 32768
    head_width: int = 0
    qkv_bias: bool = True
    qk_norm: bool = False
    interleaved: bool = False

    def __post_init__(self) -> None:
        if not self.head_width and self.width % self.heads:
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
        _, height, width = self.mrope_section
        if self.interleaved and max(3 * height - 2, 3 * width - 1) >= sum(self.mrope_section):
            raise ConfigError(
                f"text.mrope_section {self.mrope_section} cannot be interleaved: height and width may "
                "each follow a third of the frequencies"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_width or self.width // self.heads


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

    def __post_init__(self) -> None:
        # The last layer of a prompt runs for its last token alone, which is text.
        if len(self.vision.deepstack) >= self.text.layers:
            raise ConfigError(
                f"vision.deepstack {self.vision.deepstack} needs more decoder layers than blocks, "
                f"but there are {self.text.layers}"
            )

    @property
    def family(self) -> Family:
        """The family of the backbone."""
        return FAMILIES[self.vision.family]
