"""The vision tower of each family."""

from __future__ import annotations

from flax import nnx

from livecc_jax.model.config import VisionConfig
from livecc_jax.model.vision import VisionTower
from livecc_jax.model.vision_qwen2_5_vl import WindowedVisionTower
from livecc_jax.model.vision_qwen3_vl import DeepStackVisionTower

TOWERS = {
    "qwen2_vl": VisionTower,
    "qwen2_5_vl": WindowedVisionTower,
    "qwen3_vl": DeepStackVisionTower,
}


def build_tower(config: VisionConfig, out: int, rngs: nnx.Rngs) -> nnx.Module:
    """Builds the tower of a family, which maps patches to vectors of the decoder's width `out`."""
    return TOWERS[config.family](config, out, rngs)
