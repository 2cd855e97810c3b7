"""`config.json` to ModelConfig and back, in the 2024 (flat) and the later (nested) layout.

The flat layout has the decoder's fields at the top level; every transformers since 4.45 reads it. The
nested one has them under `text_config`, as transformers 4.52 and later write it. Either carries our
own block `"livecc"`, which says how the model was trained; without it the defaults hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.families.qwen2_vl import ARCHITECTURE, CHANNELS, MERGE, MODEL_TYPE, PATCH, TEMPORAL
from livecc_jax.model.config import ModelConfig, SpecialIds, TextConfig, VisionConfig
from livecc_jax.timeline.modes import MODES

CONFIG = "config.json"
LAYOUTS = ("flat", "nested")
_NUMBER = (int, float)

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
# Our field, theirs.
_IDS = {
    "vision_start": "vision_start_token_id",
    "vision_end": "vision_end_token_id",
    "vision_pad": "vision_token_id",
    "image_pad": "image_token_id",
    "video_pad": "video_token_id",
}


@dataclass(frozen=True)
class LiveCCBlock:
    """How a model was trained, and so how it wants to be run.

    Attributes:
        positions: position mode, one of `livecc_jax.timeline.positions.MODES`.
        pixel_budget: pixels a frame may have, as `livecc_jax.media.budget` spells it.
        dtype: in a training run, the dtype of the model it started from, in which it is exported.
    """

    positions: str = "mrope"
    pixel_budget: str = "384"
    dtype: str | None = None


class _Fields:
    """Typed look-ups in one JSON object, each failure naming the file and the field."""

    def __init__(self, data: Any, where: Path, prefix: str = "") -> None:
        if not isinstance(data, Mapping):
            raise CheckpointError(f"{where}: {prefix.rstrip('.') or 'the file'} is not a JSON object")
        self.data, self.where, self.prefix = data, where, prefix

    def fail(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {self.prefix}{name} {what}")

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The field; `default` where it is absent or null; CheckpointError if that is None too."""
        value = self.data.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.fail(name, "is missing")
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not right:
            raise self.fail(name, f"is {value!r}, which is not of the right type")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        value = self.get(name, int, default)
        if value < 1:
            raise self.fail(name, f"is {value}, but must be at least 1")
        return value

    def only(self, name: str, supported: Any, kind: type | tuple[type, ...] = str) -> None:
        """Check a field that has one supported value, which is also its default."""
        if self.get(name, kind, supported) != supported:
            raise self.fail(name, f"is {self.data[name]!r}; only {supported!r} is supported")

    def inside(self, name: str) -> _Fields:
        if self.data.get(name) is None:
            raise self.fail(name, "is missing")
        return _Fields(self.data[name], self.where, f"{self.prefix}{name}.")


def _rope(text: _Fields) -> tuple[tuple[int, int, int], float]:
    """(mrope_section, theta) from rope_scaling (2024) or rope_parameters (later)."""
    name = "rope_parameters" if text.data.get("rope_parameters") is not None else "rope_scaling"
    rope = text.inside(name)
    for key in ("type", "rope_type"):
        if rope.data.get(key, "mrope") not in ("mrope", "default"):
            raise rope.fail(key, f"is {rope.data[key]!r}; only 'mrope' and 'default' are supported")
    section = rope.get("mrope_section", list)
    if len(section) != 3 or not all(type(n) is int and n >= 0 for n in section):
        raise rope.fail("mrope_section", f"is {section}, but must be three whole numbers")
    theta = text.data.get("rope_theta")
    theta = rope.get("rope_theta", _NUMBER, 1e6 if theta is None else theta)
    return tuple(section), float(theta)


def _text(text: _Fields, tied: bool) -> TextConfig:
    text.only("hidden_act", "silu")
    text.only("use_sliding_window", False, bool)
    if any(kind != "full_attention" for kind in text.get("layer_types", list, [])):
        raise text.fail("layer_types", "has other than full_attention, which is not supported")
    section, theta = _rope(text)
    heads = text.count("num_attention_heads")
    return TextConfig(
        vocab_size=text.count("vocab_size"),
        width=text.count("hidden_size"),
        layers=text.count("num_hidden_layers"),
        heads=heads,
        kv_heads=text.count("num_key_value_heads", heads),
        mlp=text.count("intermediate_size"),
        rope_theta=theta,
        mrope_section=section,
        norm_eps=float(text.get("rms_norm_eps", _NUMBER)),
        tied=tied,
        max_positions=text.count("max_position_embeddings", 32768),
    )


def _vision(vision: _Fields, text_width: int) -> VisionConfig:
    vision.only("hidden_act", "quick_gelu")
    for name in ("in_channels", "in_chans"):
        vision.only(name, CHANNELS, int)
    if vision.data.get("rope_parameters") is not None:
        rope = vision.inside("rope_parameters")
        rope.only("rope_theta", 10000, _NUMBER)
        rope.only("rope_type", "axial")
    # The input pipeline makes these patches and no others.
    for name in ("patch_size", "temporal_patch_size", "spatial_merge_size"):
        vision.only(name, _VISION[name], int)
    n = {name: vision.count(name, default) for name, default in _VISION.items()}
    if n["hidden_size"] != text_width:
        raise vision.fail("hidden_size", f"is {n['hidden_size']}, but the decoder's is {text_width}")
    return VisionConfig(
        depth=n["depth"],
        width=n["embed_dim"],
        heads=n["num_heads"],
        mlp=int(n["embed_dim"] * vision.get("mlp_ratio", _NUMBER, 4)),
        patch_size=n["patch_size"],
        temporal_patch_size=n["temporal_patch_size"],
        merge_size=n["spatial_merge_size"],
    )


def _ids(top: _Fields, text: _Fields) -> SpecialIds:
    defaults = SpecialIds()
    ids = {ours: top.get(theirs, int, getattr(defaults, ours)) for ours, theirs in _IDS.items()}
    for ours in ("bos", "eos"):
        name = f"{ours}_token_id"
        owner = text if text.data.get(name) is not None else top
        value = owner.get(name, (int, list), getattr(defaults, ours))
        if isinstance(value, list):  # several ends: the first is the turn's
            if not value or type(value[0]) is not int:
                raise owner.fail(name, f"is {value}, which is not a list of ids")
            value = value[0]
        ids[ours] = value
    return SpecialIds(**ids)


def from_dict(data: Any, where: Path) -> tuple[ModelConfig, LiveCCBlock]:
    """What a parsed config.json says.

    Args:
        data: the JSON value.
        where: the file, for messages.

    Raises:
        CheckpointError: it is not a Qwen2-VL configuration, or one that is not supported; the
            message names the file and the field.
    """
    top = _Fields(data, where)
    kind = top.get("model_type", str)
    if kind != MODEL_TYPE:
        raise top.fail("model_type", f"is {kind!r}; only Qwen2-VL ({MODEL_TYPE!r}) is supported")
    if data.get("quantization_config") is not None:
        raise top.fail("quantization_config", "is set; quantised weights are not supported")
    nested = data.get("text_config") is not None
    text = top.inside("text_config") if nested else top
    tied = top.get("tie_word_embeddings", bool, False)
    if nested:  # saved there by versions 4.52 to 4.57
        tied = tied or text.get("tie_word_embeddings", bool, False)
    decoder = _text(text, tied)
    try:
        config = ModelConfig(
            decoder, _vision(top.inside("vision_config"), decoder.width), _ids(top, text)
        )
    except ConfigError as e:
        raise CheckpointError(f"{where}: {e}") from e
    block = _Fields(data.get("livecc") or {}, where, "livecc.")
    defaults = LiveCCBlock()
    if block.get("positions", str, defaults.positions) not in MODES:
        raise block.fail("positions", f"is not one of {', '.join(MODES)}")
    return config, LiveCCBlock(
        positions=block.get("positions", str, defaults.positions),
        pixel_budget=str(block.get("pixel_budget", (str, int), defaults.pixel_budget)),
        dtype=block.get("dtype", str) if block.data.get("dtype") is not None else None,
    )


def read_json(file: Path) -> Any:
    """A JSON file's value. Raises CheckpointError naming the file when there is none."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as e:
        raise CheckpointError(f"{file}: there is no such file") from e
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise CheckpointError(f"{file}: is not valid JSON ({e})") from e


def read_config(directory: str | Path) -> tuple[ModelConfig, LiveCCBlock]:
    """The configuration of a checkpoint directory. Raises CheckpointError; see `from_dict`."""
    file = Path(directory) / CONFIG
    return from_dict(read_json(file), file)


def to_dict(
    config: ModelConfig, livecc: LiveCCBlock, dtype: str | None = None, layout: str = "flat"
) -> dict[str, Any]:
    """What config.json holds.

    Args:
        config: the architecture.
        livecc: the block that says how it was trained.
        dtype: of the weights beside it, as `bfloat16`; None leaves it out.
        layout: "flat" or "nested".

    Raises:
        CheckpointError: no such layout; or HuggingFace's layout cannot express the vision tower.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"config layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    t, v, ids = config.text, config.vision, config.ids
    ratio = v.mlp / v.width
    if int(v.width * ratio) != v.mlp or v.channels != CHANNELS:
        raise CheckpointError(f"vision.mlp {v.mlp} cannot be written as a ratio of {v.width}")
    stored = {"torch_dtype": dtype} if dtype else {}
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
            **stored,
            "tie_word_embeddings": t.tied,
        }
        vision["model_type"] = MODEL_TYPE
    out |= {theirs: getattr(ids, ours) for ours, theirs in _IDS.items()}
    block = {"positions": livecc.positions, "pixel_budget": livecc.pixel_budget}
    if livecc.dtype:
        block["dtype"] = livecc.dtype
    return out | {
        **stored,
        "tie_word_embeddings": t.tied,
        "vision_config": vision,
        "livecc": block,
    }


def write_json(file: Path, data: Any) -> None:
    """Write a JSON file for people to read. Raises CheckpointError when the disk refuses."""
    try:
        file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be written ({e.strerror})") from e
