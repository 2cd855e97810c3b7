"""What a backbone family is, as plain data.

A family is one file in this folder, whose value `FAMILY` says all in which it differs from others, and
its vision tower in `model/`. Lower layers get the numbers and spellings from here, and no code asks
which family it serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PatchRules:
    """How frames are cut into patches, and the statistics that normalise them.

    Attributes:
        size: Pixels along one side of a patch.
        mean: Mean of each channel, over pixel values scaled to [0, 1].
        std: Standard deviation of each channel, likewise.
        temporal: Frames that a patch spans: one frame pair.
        merge: Patches along one side of the block that the merger fuses into one token.
        channels: Colour channels.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    temporal: int = 2
    merge: int = 2
    channels: int = 3

    @property
    def values(self) -> int:
        """Values of one patch, ordered channel, frame, row, column."""
        return self.channels * self.temporal * self.size**2

    @property
    def factor(self) -> int:
        """Both sides of a resized frame are multiples of this many pixels."""
        return self.size * self.merge


@dataclass(frozen=True)
class Family:
    """One backbone family.

    Attributes:
        name: Its name as people write it, "Qwen3-VL".
        model_type: `model_type` in config.json.
        architecture: Class of transformers that loads its checkpoints.
        patches: How frames become patches.
        weight_names: The module in our parameter tree -> the module on disk, {i} the number of a layer.
        other_prefixes: Prefix that tensor names may have instead -> the prefix in `weight_names`.
        decoder: Options of the decoder that the family fixes, as fields of `model.config.TextConfig`.
        rope_theta: Base of the decoder's rotary wavelengths where config.json does not say.
        vision_fields: Field of `model.config.VisionConfig` -> field of vision_config in config.json,
            and the default of transformers' class, because files that it saves may leave that out;
            None makes the field required.
        vision_fixed: Fields of vision_config with the only value that is supported.
        vision_out: Field of vision_config that holds the decoder's width.
        layouts: Layouts of config.json that the family has, the one for exports first.
        text_model_type: `model_type` of text_config in the nested layout.
        presets: Sizes by name, in the fields of `model.config`.
        timestamps: Whether the time of each frame pair stands before it as text, and each pair is a
            visual of its own.
        pair_positions: Temporal positions from a frame pair to the next at 2 FPS, unless config.json
            says otherwise.
        pad_id: Whether config.json names a padding token for vision (`vision_token_id`).
        preprocessors: Settings files of the released processor: file name -> content.
    """

    name: str
    model_type: str
    architecture: str
    patches: PatchRules
    weight_names: Mapping[str, str]
    other_prefixes: Mapping[str, str]
    vision_fields: Mapping[str, tuple[str, Any]]
    vision_fixed: Mapping[str, Any]
    vision_out: str
    text_model_type: str
    decoder: Mapping[str, Any] = field(default_factory=dict)
    rope_theta: float = 1_000_000.0
    layouts: tuple[str, ...] = ("flat", "nested")
    presets: Mapping[str, Any] = field(default_factory=dict)
    timestamps: bool = False
    pair_positions: int = 1
    pad_id: bool = True
    preprocessors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def gated_tower(self) -> bool:
        """Whether the tower's feed-forward layers have a gate, and RMSNorm in place of LayerNorm."""
        return "vision/blocks/mlp/gate" in self.weight_names
