"""Converts `config.json` to ModelConfig and back, in the 2024 (flat) and the later (nested) layout.

The flat layout has the decoder's fields at the top level; every transformers since 4.45 reads it. The
nested layout has them under `text_config`, as transformers 4.52 and later write it. Both carry our own
block `"livecc"`, which says how the model was trained; without the block, the defaults apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livecc_jax.checkpoints.json_fields import JsonFields, read_json
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.families.qwen2_vl import ARCHITECTURE, CHANNELS, MERGE, MODEL_TYPE, PATCH, TEMPORAL
from livecc_jax.model.config import ModelConfig, SpecialIds, TextConfig, VisionConfig
from livecc_jax.timeline.position_modes import POSITION_MODES

CONFIG = "config.json"
LAYOUTS = ("flat", "nested")
_NUMBER = (int, float)
# Limits of an architecture, several times those of the largest model: more is a damaged file.
MAX_LAYERS = 1000
MAX_HEADS = 10_000
MAX_VOCABULARY = 10_000_000
MAX_ID = 2**31 - 1
MAX_MLP_RATIO = 1000

# Fields of vision_config, with transformers' defaults: files it saved leave those out.
_VISION = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "num_heads": 16,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": TEMPORAL,
}
# Our field of `SpecialIds` -> the field in config.json.
_IDS = {
    "vision_start": "vision_start_token_id",
    "vision_end": "vision_end_token_id",
    "vision_pad": "vision_token_id",
    "image_pad": "image_token_id",
    "video_pad": "video_token_id",
}


@dataclass(frozen=True)
class LiveCCBlock:
    """How a model was trained; commands take their defaults from it.

    Attributes:
        positions: Position mode, one of `livecc_jax.timeline.positions.MODES`.
        pixel_budget: Pixels that a frame may have, as `livecc_jax.media.budget` spells it.
        dtype: Dtype of the model that a training run started from, in which the run is exported.
    """

    positions: str = "mrope"
    pixel_budget: str = "384"
    dtype: str | None = None


def _rope(text: JsonFields) -> tuple[tuple[int, int, int], float]:
    """Returns (mrope_section, theta) from rope_scaling (2024) or rope_parameters (later)."""
    name = "rope_parameters" if text.data.get("rope_parameters") is not None else "rope_scaling"
    rope = text.inside(name)
    for key in ("type", "rope_type"):
        if rope.data.get(key, "mrope") not in ("mrope", "default"):
            raise rope.fail(key, f"is {rope.data[key]!r:.80}; only 'mrope' and 'default' are supported")
    section = rope.get("mrope_section", list)
    if len(section) != 3 or not all(type(n) is int and n >= 0 for n in section):
        raise rope.fail("mrope_section", f"is {section!s:.80}, but must be three whole numbers")
    owner = rope if rope.data.get("rope_theta") is not None else text
    return tuple(section), owner.positive("rope_theta", 1e6)


def _text(text: JsonFields, tied: bool) -> TextConfig:
    text.only("hidden_act", "silu")
    text.only("use_sliding_window", False, bool)
    if any(kind != "full_attention" for kind in text.get("layer_types", list, [])):
        raise text.fail("layer_types", "has other than full_attention, which is not supported")
    section, theta = _rope(text)
    heads = text.count("num_attention_heads", most=MAX_HEADS)
    return TextConfig(
        vocab_size=text.count("vocab_size", most=MAX_VOCABULARY),
        width=text.count("hidden_size"),
        layers=text.count("num_hidden_layers", most=MAX_LAYERS),
        heads=heads,
        kv_heads=text.count("num_key_value_heads", heads, most=MAX_HEADS),
        mlp=text.count("intermediate_size"),
        rope_theta=theta,
        mrope_section=section,
        norm_eps=text.positive("rms_norm_eps"),
        tied=tied,
        max_positions=text.count("max_position_embeddings", 32768, most=MAX_ID),
    )


def _vision(vision: JsonFields, text_width: int) -> VisionConfig:
    vision.only("hidden_act", "quick_gelu")
    for name in ("in_channels", "in_chans"):
        vision.only(name, CHANNELS, int)
    if vision.data.get("rope_parameters") is not None:
        rope = vision.inside("rope_parameters")
        rope.only("rope_theta", 10000, _NUMBER)
        rope.only("rope_type", "axial")
    # The input pipeline only creates patches of this size.
    for name in ("patch_size", "temporal_patch_size", "spatial_merge_size"):
        vision.only(name, _VISION[name], int)
    limits = {"depth": MAX_LAYERS, "num_heads": MAX_HEADS}
    n = {
        name: vision.count(name, default, **({"most": limits[name]} if name in limits else {}))
        for name, default in _VISION.items()
    }
    ratio = vision.number("mlp_ratio", 4)
    if not 0 < ratio <= MAX_MLP_RATIO or int(n["embed_dim"] * ratio) < 1:
        raise vision.fail("mlp_ratio", f"is {ratio:g}, which no feed-forward layer can have")
    if n["hidden_size"] != text_width:
        raise vision.fail("hidden_size", f"is {n['hidden_size']}, but the decoder's is {text_width}")
    return VisionConfig(
        depth=n["depth"],
        width=n["embed_dim"],
        heads=n["num_heads"],
        mlp=int(n["embed_dim"] * ratio),
        patch_size=n["patch_size"],
        temporal_patch_size=n["temporal_patch_size"],
        merge_size=n["spatial_merge_size"],
    )


def _ids(top: JsonFields, text: JsonFields) -> SpecialIds:
    defaults = SpecialIds()
    ids = {ours: top.get(theirs, int, getattr(defaults, ours)) for ours, theirs in _IDS.items()}
    for ours in ("bos", "eos"):
        name = f"{ours}_token_id"
        owner = text if text.data.get(name) is not None else top
        value = owner.get(name, (int, list), getattr(defaults, ours))
        if isinstance(value, list):  # several end tokens: the first one ends a turn
            if not value or type(value[0]) is not int:
                raise owner.fail(name, f"is {value!s:.80}, which is not a list of ids")
            value = value[0]
        ids[ours] = value
    for ours, value in ids.items():
        if not 0 <= value <= MAX_ID:
            raise top.fail(_IDS.get(ours, f"{ours}_token_id"), f"is {value}, which is no token id")
    return SpecialIds(**ids)


def tie_flags(data: Any, where: Path = Path(CONFIG)) -> list[bool]:
    """Returns what a parsed config.json says about tied heads: at the top, then in text_config.

    Fields that are absent or null are left out. Raises CheckpointError when one is not true or false.
    """
    top = JsonFields(data, where)
    owners = [top] if data.get("text_config") is None else [top, top.inside("text_config")]
    name = "tie_word_embeddings"
    return [owner.get(name, bool) for owner in owners if owner.data.get(name) is not None]


def parse_config(data: Any, where: Path) -> tuple[ModelConfig, LiveCCBlock]:
    """Convert a parsed config.json.

    Args:
        data: The JSON value.
        where: The file, for error messages.

    Raises:
        CheckpointError: The configuration is not one of Qwen2-VL, or is not supported; the message
            names the file and the field.
    """
    top = JsonFields(data, where)
    kind = top.get("model_type", str)
    if kind != MODEL_TYPE:
        raise top.fail("model_type", f"is {kind!r:.80}; only Qwen2-VL ({MODEL_TYPE!r}) is supported")
    if data.get("quantization_config") is not None:
        raise top.fail("quantization_config", "is set; quantised weights are not supported")
    nested = data.get("text_config") is not None
    text = top.inside("text_config") if nested else top
    # Versions 4.52 to 4.57 save the field in text_config, others at the top, some in both.
    flags = tie_flags(data, where)
    tied = flags[0] if flags else False
    try:
        decoder = _text(text, tied)
        config = ModelConfig(
            decoder, _vision(top.inside("vision_config"), decoder.width), _ids(top, text)
        )
    except ConfigError as e:
        raise CheckpointError(f"{where}: {e}") from e
    block = JsonFields(data.get("livecc") or {}, where, "livecc.")
    defaults = LiveCCBlock()
    if block.get("positions", str, defaults.positions) not in POSITION_MODES:
        raise block.fail("positions", f"is not one of {', '.join(POSITION_MODES)}")
    return config, LiveCCBlock(
        positions=block.get("positions", str, defaults.positions),
        pixel_budget=str(block.get("pixel_budget", (str, int), defaults.pixel_budget)),
        dtype=block.get("dtype", str) if block.data.get("dtype") is not None else None,
    )


def read_config(directory: str | Path) -> tuple[ModelConfig, LiveCCBlock]:
    """Read the configuration of a checkpoint directory. Raises CheckpointError; see `parse_config`."""
    file = Path(directory) / CONFIG
    return parse_config(read_json(file), file)


def to_config_json(
    config: ModelConfig, livecc: LiveCCBlock, dtype: str | None = None, layout: str = "flat"
) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
        config: The architecture.
        livecc: The block that says how the model was trained.
        dtype: Name of the weights' dtype, as `bfloat16`; None leaves it out.
        layout: "flat" or "nested".

    Raises:
        CheckpointError: The layout is unknown, or HuggingFace's layout cannot express the vision
            tower.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"config layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    t, v, ids = config.text, config.vision, config.ids
    ratio = v.mlp / v.width
    if int(v.width * ratio) != v.mlp or v.channels != CHANNELS:
        raise CheckpointError(f"vision.mlp {v.mlp} cannot be written as a ratio of {v.width}")
    dtype_field = {"torch_dtype": dtype} if dtype else {}
    text = {
        "attention_dropout": 0.0,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "hidden_act": "silu",
        "hidden_size": t.width,
        "initializer_range": 0.02,
        "intermediate_size": t.mlp,
        "max_position_embeddings": t.max_positions,
        "max_window_layers": t.layers,
        "num_attention_heads": t.heads,
        "num_hidden_layers": t.layers,
        "num_key_value_heads": t.kv_heads,
        "rms_norm_eps": t.norm_eps,
        "rope_scaling": {"type": "mrope", "mrope_section": list(t.mrope_section)},
        "rope_theta": t.rope_theta,
        "sliding_window": 32768,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": t.vocab_size,
    }
    vision = {
        "depth": v.depth,
        "embed_dim": v.width,
        "hidden_act": "quick_gelu",
        "hidden_size": t.width,
        "in_channels": v.channels,
        "in_chans": v.channels,
        "mlp_ratio": int(ratio) if ratio.is_integer() else ratio,
        "num_heads": v.heads,
        "patch_size": v.patch_size,
        "spatial_merge_size": v.merge_size,
        "spatial_patch_size": v.patch_size,
        "temporal_patch_size": v.temporal_patch_size,
    }
    out = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE}
    if layout == "flat":
        out |= text
    else:
        out["text_config"] = {
            "model_type": "qwen2_vl_text",
            **text,
            **dtype_field,
            "tie_word_embeddings": t.tied,
        }
        vision["model_type"] = MODEL_TYPE
    out |= {theirs: getattr(ids, ours) for ours, theirs in _IDS.items()}
    block = {"positions": livecc.positions, "pixel_budget": livecc.pixel_budget}
    if livecc.dtype:
        block["dtype"] = livecc.dtype
    return out | {
        **dtype_field,
        "tie_word_embeddings": t.tied,
        "vision_config": vision,
        "livecc": block,
    }
