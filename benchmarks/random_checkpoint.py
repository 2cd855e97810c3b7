"""Writes random checkpoints in HuggingFace layout, with Qwen2's vocabulary and tokenizer.

    python benchmarks/random_checkpoint.py OUT                # small, sensitive to its input
    python benchmarks/random_checkpoint.py OUT --preset 7b    # a real size, in bfloat16

A trained model is robust: it generates the same words after a small error in an earlier layer. The
small checkpoint's weights are scaled up until every bit of the input matters, as a comparison of two
implementations of streaming needs. The real sizes have weights as before training, and are written one
tensor at a time.
"""

import argparse
import dataclasses
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.weight_names import tensor_shapes
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import init_params
from livecc_jax.text.open import open_tokenizer

TOKENIZER = Path(__file__).parents[1] / "data/tokenizer"


class RandomWeights:
    """A weight source whose tensors are generated when they are read, the same ones each time."""

    def __init__(self, config, dtype):
        self.shapes = tensor_shapes(config)
        self.dtypes = dict.fromkeys(self.shapes, np.dtype(dtype))

        def normal(seed, shape):
            return 0.02 * jax.random.normal(jax.random.key(seed, impl="rbg"), shape, dtype)

        self._normal = jax.jit(normal, static_argnums=1)

    def read(self, name):
        seed = zlib.crc32(name.encode()) >> 1
        values = np.asarray(self._normal(seed, self.shapes[name]))
        is_norm_scale = ("norm" in name or "ln_q" in name) and name.endswith(".weight")
        return values + values.dtype.type(1) if is_norm_scale else values


def write_preset(out, name, dtype="bfloat16", positions="mrope", layout="flat"):
    """Writes a preset's architecture with random weights."""
    config = preset(name)
    weights = RandomWeights(config, jnp.dtype(dtype))
    block = LiveCCBlock(positions=positions)
    tokenizer = open_tokenizer(TOKENIZER)
    export_hf(out, config, block, weights, tokenizer, overwrite=True, layout=layout)


def write_sensitive(out, tokenizer):
    """Writes the `tiny` sizes with an untied head; its turns end in every possible way."""
    config = preset("tiny")
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied=False))
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    params = jax.tree.map(lambda x: np.array(x * 6 if x.ndim > 1 and x.std() > 0 else x), params)
    params["text"]["head"][:, tokenizer.special.im_end] *= 2.2
    params["text"]["head"][:, tokenizer.silence_id] *= 1.7
    block = LiveCCBlock(positions="hybrid", pixel_budget="48")
    export_hf(out, config, block, params, tokenizer, overwrite=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--preset", help="a real size, instead of the small checkpoint")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of a real size")
    parser.add_argument(
        "--layout", default="flat", help="layout of config.json: nested for transformers 5"
    )
    args = parser.parse_args()
    if args.preset:
        write_preset(args.out, args.preset, args.dtype, layout=args.layout)
    else:
        write_sensitive(args.out, open_tokenizer(TOKENIZER))
    print(args.out)


if __name__ == "__main__":
    main()
