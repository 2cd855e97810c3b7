"""A checkpoint with Qwen2's vocabulary whose weights follow from their names, and questions to ask it.

choice.json beside this holds what transformers 4.50 answers: the option logits of every question, asked
the released way. It is written anew by

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
from livecc_jax.model.presets import preset
from livecc_jax.text.open import open_tokenizer
from livecc_jax.checkpoints.weight_names import tensor_shapes
from tests.goldens import tiny_weights

ROOT = Path(__file__).parents[2]


class NamedWeights:
    """Weights of the preset `tiny`, untied, each made from its name."""

    def __init__(self) -> None:
        tiny = preset("tiny")
        self.config = dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, tied=False))
        self.shapes = tensor_shapes(self.config)
        self.dtypes = dict.fromkeys(self.shapes, np.dtype(np.float32))

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        return tiny_weights.weight(name, self.shapes[name])


def released_choice() -> ModuleType:
    """The benchmark that asks transformers, as a module."""
    file = ROOT / "benchmarks/released_choice.py"
    spec = importlib.util.spec_from_file_location("released_choice", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(checkpoint: Path, questions: Path) -> None:
    """Write both."""
    weights = NamedWeights()
    tokenizer = open_tokenizer(ROOT / "data/tokenizer")
    export_hf(checkpoint, weights.config, LiveCCBlock(), weights, tokenizer, overwrite=True)
    released_choice().make(questions)


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:]))
