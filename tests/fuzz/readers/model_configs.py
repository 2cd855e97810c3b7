"""config.json of models, in both layouts; Python's `json` reads its fields independently."""

import json
import math
from pathlib import Path

from livecc_jax.checkpoints.hf_config import LiveCCBlock, read_config, to_config_json
from livecc_jax.model.presets import preset
from tests.fuzz.reader import Reader

FIELDS = {
    "hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads",
    "intermediate_size": "mlp", "vocab_size": "vocab_size", "rms_norm_eps": "norm_eps",
    "num_key_value_heads": "kv_heads", "max_position_embeddings": "max_positions",
}  # fmt: skip


def _prepare(folder: Path) -> None:
    for layout in ("flat", "nested"):
        (folder / layout).mkdir()
        value = to_config_json(preset("tiny"), LiveCCBlock("hybrid", "256"), layout=layout)
        (folder / layout / "config.json").write_text(json.dumps(value, indent=2))


def _read(folder: Path, file: str):
    return read_config((folder / file).parent)


def _differs(folder: Path, file: str, value) -> str:
    config, livecc = value
    top = json.loads((folder / file).read_bytes())
    text = top.get("text_config") if top.get("text_config") is not None else top
    for name, field in FIELDS.items():
        found, stored = getattr(config.text, field), text.get(name)
        if stored is not None and found != (float(stored) if isinstance(found, float) else stored):
            return f"{name} is {found}, not {stored}"
        if not math.isfinite(found) or found <= 0:
            return f"{name} is {found}"
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if list(config.text.mrope_section) != rope.get("mrope_section"):
        return "another mrope_section"
    if config.text.width % config.text.heads or not math.isfinite(config.text.rope_theta):
        return "an impossible architecture was accepted"
    stored = (top.get("livecc") or {}).get("positions")
    return "" if stored in (None, livecc.positions) else "other positions"


def _files(folder: Path) -> list[str]:
    return ["flat/config.json", "nested/config.json"]


READER = Reader("configs", _prepare, _files, _read, _differs, is_text=True, share=1.2, fast=40)
