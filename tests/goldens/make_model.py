"""Writes model_tied.npz and model_untied.npz: logits of a small Qwen2-VL in transformers 4.50.

For each conversation of tiny_weights.py they hold positions [3, T] of `get_rope_index`, float32 logits
[T, V] and a checksum of the patches. It needs `pip install transformers==4.50.0 torch==2.13.0`:

    python -m tests.goldens.make_model
"""

import copy
import zlib
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.goldens import tiny_weights as tiny

HERE = Path(__file__).parent


def build(tied):
    """Returns the model in float32, with every tensor derived from its name."""
    config = Qwen2VLConfig(**copy.deepcopy(tiny.CONFIG), tie_word_embeddings=tied)
    config._attn_implementation = "eager"
    model = Qwen2VLForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(tiny.weight(name, tuple(parameter.shape))))
    return model


def inputs(case):
    """Returns the keyword arguments of `forward`, without positions."""
    tokens, visuals = tiny.conversation(case)
    out = {"input_ids": torch.from_numpy(tokens).long()[None]}
    pixels = torch.from_numpy(tiny.normalized(tiny.patches(case)))
    kinds = np.repeat([kind for kind, _ in visuals], [t * h * w for _, (t, h, w) in visuals])
    for kind, values, grid in (
        (tiny.IMAGE, "pixel_values", "image_grid_thw"),
        (tiny.VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        grids = [g for k, g in visuals if k == kind]
        if grids:
            out[values], out[grid] = pixels[kinds == kind], torch.tensor(grids)
    return out


def main():
    """Write both files."""
    for tied in (True, False):
        model, arrays = build(tied), {}
        for case in tiny.CASES:
            arguments = inputs(case)
            positions, _ = model.get_rope_index(
                arguments["input_ids"],
                arguments.get("image_grid_thw"),
                arguments.get("video_grid_thw"),
            )
            with torch.no_grad():
                logits = model(**arguments, position_ids=positions).logits
            arrays[f"{case}/positions"] = positions[:, 0].numpy().astype(np.int32)
            arrays[f"{case}/logits"] = logits[0].numpy()
            arrays[f"{case}/patches"] = np.uint32(zlib.crc32(tiny.patches(case).tobytes()))
        np.savez_compressed(HERE / f"model_{'tied' if tied else 'untied'}.npz", **arrays)


if __name__ == "__main__":
    main()
