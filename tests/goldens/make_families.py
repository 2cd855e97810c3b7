"""Writes qwen2_5_vl.npz and qwen3_vl.npz: logits of small models in transformers 4.57.

For each conversation of tiny_families.py, tied and untied, they hold positions [3, T] of
`get_rope_index`, float32 logits [T, V] and a checksum of the patches. It needs
`pip install transformers==4.57.6 torch==2.13.0`:

    python -m tests.goldens.make_families
"""

import copy
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.goldens import tiny_families as families
from tests.goldens import tiny_weights as tiny

HERE = Path(__file__).parent
CLASSES = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}


def stored_name(family, name):
    """Returns the name that a tensor has on disk."""
    if family == "qwen2_5_vl":
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
    return name


def build(family, tied):
    """Returns the model in float32, with every tensor derived from its name."""
    config = getattr(transformers, CLASSES[family] + "Config")(
        **copy.deepcopy(families.config_json(family, tied))
    )
    config._attn_implementation = "eager"
    model = getattr(transformers, CLASSES[family] + "ForConditionalGeneration")(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = tiny.weight(stored_name(family, name), tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(values))
    return model


def inputs(family, case):
    """Returns the keyword arguments of `forward`, without positions."""
    tokens, visuals = families.conversation(family, case)
    ids = torch.from_numpy(tokens).long()[None]
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pixels = torch.from_numpy(families.normalized(family, families.patches(family, case)))
    kinds = np.repeat([kind for kind, _ in visuals], [t * h * w for _, (t, h, w) in visuals])
    for kind, values, grid in (
        (tiny.IMAGE, "pixel_values", "image_grid_thw"),
        (tiny.VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        grids = [g for k, g in visuals if k == kind]
        if grids:
            out[values], out[grid] = pixels[kinds == kind], torch.tensor(grids)
    return out


def positions_of(family, model, arguments):
    """Returns the positions that transformers gives the tokens, [3, 1, T]."""
    ids, mask = arguments["input_ids"], arguments["attention_mask"]
    images, videos = arguments.get("image_grid_thw"), arguments.get("video_grid_thw")
    if family == "qwen3_vl":
        videos = None if videos is None else videos.clone()  # it is changed in place
        return model.model.get_rope_index(ids, images, videos, mask)[0]
    seconds = None if videos is None else torch.ones(len(videos))  # of a frame pair, at 2 FPS
    return model.model.get_rope_index(ids, images, videos, seconds, mask)[0]


def main():
    """Write both files."""
    for family in CLASSES:
        arrays = {}
        for tied in (True, False):
            model = build(family, tied)
            for case in tiny.CASES:
                arguments = inputs(family, case)
                positions = positions_of(family, model, arguments)
                with torch.no_grad():
                    logits = model(**arguments, position_ids=positions).logits
                key = f"{'tied' if tied else 'untied'}/{case}"
                arrays[f"{key}/logits"] = logits[0].numpy()
                arrays[f"{case}/positions"] = positions[:, 0].numpy().astype(np.int32)
                arrays[f"{case}/patches"] = np.uint32(
                    zlib.crc32(families.patches(family, case).tobytes())
                )
        np.savez_compressed(HERE / f"{family}.npz", **arrays)


if __name__ == "__main__":
    main()
