"""Backbone families: one file a family, and the table of all of them."""

from __future__ import annotations

from livecc_jax.families import qwen2_5_vl, qwen2_vl, qwen3_vl
from livecc_jax.families.family import Family

DEFAULT = qwen2_vl.FAMILY  # of files that name no family
FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (qwen2_vl.FAMILY, qwen2_5_vl.FAMILY, qwen3_vl.FAMILY)
}
