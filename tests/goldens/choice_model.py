"""A checkpoint with Qwen2's vocabulary whose weights follow from their names, and benchmarks.

choice.json in this folder holds the answers of transformers 4.50: the option logits of every question,
computed as in the released evaluation. These commands write it:

    python -m tests.goldens.choice_model /tmp/named /tmp/small
    python benchmarks/released_choice.py ours /tmp/named /tmp/small
    # where these are installed: transformers==4.50.0 torch==2.13.0 decord==0.6.0 pillow jinja2
    python benchmarks/released_choice.py check /tmp/named /tmp/small --save tests/goldens/choice.json
"""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.weight_names import tensor_shapes
from livecc_jax.model.presets import preset
from livecc_jax.text.open import open_tokenizer
from tests.goldens import tiny_weights

ROOT = Path(__file__).parents[2]


class NamedWeights:
    """Weight source of the untied preset `tiny`; each tensor follows from its name."""

    def __init__(self) -> None:
        tiny = preset("tiny")
        self.config = dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, tied=False))
        self.shapes = tensor_shapes(self.config)
        self.dtypes = dict.fromkeys(self.shapes, np.dtype(np.float32))

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor."""
        return tiny_weights.weight(name, self.shapes[name])


def load_released_choice() -> ModuleType:
    """Returns benchmarks/released_choice.py as a module."""
    file = ROOT / "benchmarks/released_choice.py"
    spec = importlib.util.spec_from_file_location("released_choice", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(checkpoint: Path, questions: Path) -> None:
    """Writes the checkpoint, and the benchmarks with their questions."""
    weights = NamedWeights()
    tokenizer = open_tokenizer(ROOT / "data/tokenizer")
    export_hf(checkpoint, weights.config, LiveCCBlock(), weights, tokenizer, overwrite=True)
    load_released_choice().write_benchmarks(questions)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
