"""safetensors files and their index; the `safetensors` library reads them independently."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save

from livecc_jax.checkpoints.safetensors import read_directory
from tests.fuzz.reader import Reader

NAMES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64}


def _tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"layer.{seed}.weight": rng.standard_normal((4, 6)).astype(np.float32),
        f"layer.{seed}.bias": rng.standard_normal(6).astype(np.float16),
        f"layer.{seed}.steps": np.arange(3),
        f"layer.{seed}.none": np.zeros((0, 2), np.float32),
    }


def _prepare(folder: Path) -> None:
    weight_map = {}
    for number in (1, 2):
        file = f"model-{number}.safetensors"
        (folder / file).write_bytes(save(_tensors(number), {"format": "pt"}))
        weight_map |= dict.fromkeys(_tensors(number), file)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def _read(folder: Path, file: str):
    return [(name, info, info.read_rows(0, info.shape[0]) if info.shape else info.read())
            for name, info in read_directory(folder)]  # fmt: skip


def _differs(folder: Path, file: str, value) -> str:
    index = json.loads((folder / "model.safetensors.index.json").read_bytes())
    expected = []
    for shard in dict.fromkeys(index["weight_map"].values()):
        try:
            expected += safetensors.deserialize((folder / shard).read_bytes())
        except Exception as error:
            return f"the library refuses {shard}: {error}"
    ours = sorted((name, list(info.shape), values.tobytes()) for name, info, values in value)
    theirs = sorted((name, list(t["shape"]), bytes(t["data"])) for name, t in expected)
    return "" if ours == theirs else f"{ours!a:.100} is not {theirs!a:.100}"


def _files(folder: Path) -> list[str]:
    return ["model-1.safetensors", "model.safetensors.index.json"]


READER = Reader("safetensors", _prepare, _files, _read, _differs, is_text=True, share=1.4, fast=50)
