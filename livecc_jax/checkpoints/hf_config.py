"""Converts `config.json` to ModelConfig and back, in the 2024 (flat) and the later (nested) layout.

The flat layout has the decoder's fields at the top level; every transformers since 4.45 reads it. The
nested layout has them under `text_config`, as transformers 4.52 and later write it. Both carry our own
block `"livecc"`, which says how the model was trained; without the block, the defaults apply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livecc_jax.checkpoints.json_fields import JsonFields, read_json
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.families import FAMILIES
from livecc_jax.families.family import Family
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
EPSILONS = {"least": 1e-30, "most": 1.0}  # of a norm, in float32
THETAS = {"least": 1.0, "most": 1e12}  # bases of rotary positions

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


def _rope(text: JsonFields, default_theta: float) -> tuple[tuple[int, int, int], float]:
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
    return tuple(section), owner.positive("rope_theta", default_theta, **THETAS)


def _text(text: JsonFields, tied: bool, family: Family) -> TextConfig:
    text.only("hidden_act", "silu")
    text.only("use_sliding_window", False, bool)
    text.only("attention_bias", family.decoder.get("qkv_bias", True), bool)
    if any(kind != "full_attention" for kind in text.get("layer_types", list, [])):
        raise text.fail("layer_types", "has other than full_attention, which is not supported")
    section, theta = _rope(text, family.rope_theta)
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
        norm_eps=text.positive("rms_norm_eps", **EPSILONS),
        tied=tied,
        max_positions=text.count("max_position_embeddings", 32768, most=MAX_ID),
        # A field of the families whose heads have a width of their own; others do not read it.
        head_width=text.count("head_dim", 128) if family.decoder.get("qk_norm") else 0,
        **family.decoder,
    )


def _vision(vision: JsonFields, text_width: int, family: Family) -> VisionConfig:
    patches = family.patches
    for name, value in family.vision_fixed.items():
        vision.only(name, value, type(value))
    for name in ("in_channels", "in_chans"):
        vision.only(name, patches.channels, int)
    if vision.data.get("rope_parameters") is not None:
        rope = vision.inside("rope_parameters")
        rope.only("rope_theta", 10000, _NUMBER)
        rope.only("rope_type", "axial")
    values = {ours: _vision_value(vision, *field) for ours, field in family.vision_fields.items()}
    if family.vision_fields["mlp"][0] == "mlp_ratio":
        values["mlp"] = int(values["width"] * values["mlp"])
        if values["mlp"] < 1:
            raise vision.fail("mlp_ratio", "makes an empty feed-forward layer")
    if "window" in values:  # pixels on disk; a window holds whole tokens
        pixels = values["window"]
        values["window"] = pixels // patches.factor * patches.merge
        if not values["window"]:
            raise vision.fail(
                "window_size", f"is {pixels} pixels, less than the {patches.factor} of a token"
            )
    if "position_grid" in values:  # places of the whole table on disk
        side = math.isqrt(values["position_grid"])
        if side**2 != values["position_grid"]:
            raise vision.fail("num_position_embeddings", f"is {values['position_grid']}, not a square")
        values["position_grid"] = side
    width = vision.count(family.vision_out, text_width)
    if width != text_width:
        raise vision.fail(family.vision_out, f"is {width}, but the decoder's is {text_width}")
    return VisionConfig(**values, family=family.model_type)


def _vision_value(vision: JsonFields, name: str, default: Any) -> Any:
    """Returns a field of vision_config, of the kind that its default or its name tells."""
    if isinstance(default, tuple):
        blocks = vision.get(name, list, list(default))
        if not all(type(block) is int for block in blocks):
            raise vision.fail(name, f"is {blocks!s:.80}, which is not a list of block numbers")
        return tuple(blocks)
    if name == "mlp_ratio":
        ratio = vision.number(name, default)
        if not 0 < ratio <= MAX_MLP_RATIO:
            raise vision.fail(name, f"is {ratio:g}, which no feed-forward layer can have")
        return ratio
    limits = {"depth": MAX_LAYERS, "num_heads": MAX_HEADS}
    return vision.count(name, default, **({"most": limits[name]} if name in limits else {}))


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
        CheckpointError: The configuration is not one of a family that is supported, or has a value that
            is not; the message names the file and the field.
    """
    top = JsonFields(data, where)
    kind = top.get("model_type", str)
    if kind not in FAMILIES:
        known = ", ".join(f"{family.name} ({name!r})" for name, family in FAMILIES.items())
        raise top.fail("model_type", f"is {kind!r:.80}; the supported families are {known}")
    family = FAMILIES[kind]
    if data.get("quantization_config") is not None:
        raise top.fail("quantization_config", "is set; quantised weights are not supported")
    nested = data.get("text_config") is not None
    text = top.inside("text_config") if nested else top
    # Versions 4.52 to 4.57 save the field in text_config, others at the top, some in both.
    flags = tie_flags(data, where)
    tied = flags[0] if flags else False
    if not nested and "flat" not in family.layouts:
        raise top.fail("text_config", "is missing")
    try:
        decoder = _text(text, tied, family)
        vision = _vision(top.inside("vision_config"), decoder.width, family)
        config = ModelConfig(decoder, vision, _ids(top, text))
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
        layout: "flat" or "nested"; a family that has one layout alone gets that one.

    Raises:
        CheckpointError: The layout is unknown, or HuggingFace's layout cannot express the vision
            tower.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"config layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    t, ids, family = config.text, config.ids, config.family
    if layout not in family.layouts:
        layout = family.layouts[0]
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
        "num_attention_heads": t.heads,
        "num_hidden_layers": t.layers,
        "num_key_value_heads": t.kv_heads,
        "rms_norm_eps": t.norm_eps,
        "rope_theta": t.rope_theta,
        "use_cache": True,
        "vocab_size": t.vocab_size,
    }
    section = list(t.mrope_section)
    if t.qk_norm:
        text |= {
            "attention_bias": t.qkv_bias,
            "head_dim": t.head_dim,
            "rope_scaling": {
                "mrope_interleaved": t.interleaved, "mrope_section": section, "rope_type": "default",
            },
        }  # fmt: skip
    else:
        text |= {
            "max_window_layers": t.layers,
            "rope_scaling": {"type": "mrope", "mrope_section": section},
            "sliding_window": 32768,
            "use_sliding_window": False,
        }
    vision = _vision_json(config)
    out = {"architectures": [family.architecture], "model_type": family.model_type}
    if layout == "flat":
        out |= text
    else:
        out["text_config"] = {
            "model_type": family.text_model_type,
            **text,
            **dtype_field,
            "tie_word_embeddings": t.tied,
        }
        vision["model_type"] = family.model_type
    names = {ours: name for ours, name in _IDS.items() if family.pad_id or ours != "vision_pad"}
    out |= {theirs: getattr(ids, ours) for ours, theirs in names.items()}
    block = {"positions": livecc.positions, "pixel_budget": livecc.pixel_budget}
    if livecc.dtype:
        block["dtype"] = livecc.dtype
    return out | {
        **dtype_field,
        "tie_word_embeddings": t.tied,
        "vision_config": vision,
        "livecc": block,
    }


def _vision_json(config: ModelConfig) -> dict[str, Any]:
    """Returns vision_config. Raises CheckpointError when the family's fields cannot express a value."""
    v, family = config.vision, config.family
    patches = family.patches
    out: dict[str, Any] = {
        **family.vision_fixed,
        "in_channels": patches.channels,
        "in_chans": patches.channels,
        "spatial_patch_size": patches.size,
        family.vision_out: config.text.width,
    }
    for ours, (name, _) in family.vision_fields.items():
        value = getattr(v, ours)
        if name == "mlp_ratio":
            ratio = v.mlp / v.width
            if int(v.width * ratio) != v.mlp:
                raise CheckpointError(f"vision.mlp {v.mlp} cannot be written as a ratio of {v.width}")
            value = int(ratio) if ratio.is_integer() else ratio
        elif ours == "window":
            value = value * patches.size
        elif ours == "position_grid":
            value = value**2
        out[name] = list(value) if isinstance(value, tuple) else value
    return out
