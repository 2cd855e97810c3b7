"""A checkpoint that says wild things: random weights scaled up until every bit of the input matters.

    python benchmarks/random_checkpoint.py OUT

A trained model is forgiving: it says the same words after a small mistake upstream. This one does not,
which is what a comparison of two implementations wants. It has Qwen2's vocabulary and the `tiny` sizes.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import init_params
from livecc_jax.text.tokenizer import open_tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--tokenizer", default=Path(__file__).parents[1] / "data/tokenizer")
    args = parser.parse_args()
    tokenizer = open_tokenizer(args.tokenizer)
    config = preset("tiny")
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied=False))
    params = jax.jit(init_params, static_argnums=(0, 1))(config, 0)
    params = jax.tree.map(lambda x: np.array(x * 6 if x.ndim > 1 and x.std() > 0 else x), params)
    # Longer rows for the end of a turn and for silence, so that turns end in every way.
    params["text"]["head"][:, tokenizer.special.im_end] *= 2.2
    params["text"]["head"][:, tokenizer.silence_id] *= 1.7
    block = LiveCCBlock(positions="hybrid", pixel_budget="48")
    export_hf(args.out, config, block, params, tokenizer, overwrite=True)
    print(args.out)


if __name__ == "__main__":
    main()
