"""Writes media.npz: pixels, sizes, patches and frame times of the released pipeline.

It needs `pip install transformers==4.50.0 torch==2.13.0 decord==0.6.0 pillow`:

    python -m tests.goldens.make_media
"""

import json
from pathlib import Path

import decord
import numpy as np
import torch
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

HERE = Path(__file__).parent
CLIPS = HERE.parent.parent / "data/clips"

# (clip, frame, height, width): both sides smaller, both larger, one of each
RESIZES = [
    ("bbb_espeak_narration_30s.mp4", 100, 84, 168),
    ("bikes.mp4", 130, 196, 448),
    ("bbb_oddsize_317x179_derived.mp4", 60, 308, 532),
    ("bikes.mp4", 240, 140, 1120),
]


def crop(picture):
    """Returns the top left corner, with its edges, and the centre."""
    h, w = picture.shape[:2]
    return np.concatenate(
        [picture[:48, :48], picture[h // 2 - 24 : h // 2 + 24, w // 2 - 24 : w // 2 + 24]]
    )


def main():
    out = {}
    for i, (clip, frame, height, width) in enumerate(RESIZES):
        reader = decord.VideoReader(str(CLIPS / clip))
        picture = torch.from_numpy(reader[frame].asnumpy())
        out[f"frame_{i}"] = crop(picture.numpy())
        resized = torch.nn.functional.interpolate(
            picture.permute(2, 0, 1)[None].float(), (height, width), mode="bicubic", antialias=True
        )
        resized = resized.clamp(0, 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
        out[f"resized_{i}"] = crop(resized)

    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(300):
        h, w = (int(x) for x in rng.integers(28, 2200, 2))
        low = int(rng.integers(1, 200)) * 784
        high = low + int(rng.integers(1, 800)) * 784
        if max(h, w) <= 200 * min(h, w):
            sizes.append([h, w, low, high, *smart_resize(h, w, 28, low, high)])
    # Sizes at exact halves, which Python rounds to even.
    sizes += [[14 * k, 42, 784, 10**9, *smart_resize(14 * k, 42, 28, 784, 10**9)] for k in range(2, 30)]
    out["sizes"] = np.array(sizes)

    frames = rng.integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, do_convert_rgb=False
    )
    processed = processor(images=None, videos=[list(frames)], return_tensors="np")
    out["patch_frames"] = frames
    out["patch_values"] = processed["pixel_values_videos"].astype(np.uint8)
    out["patch_grid"] = processed["video_grid_thw"][0]

    times = {}
    for clip in ("bbb_espeak_narration_30s.mp4", "bikes.mp4", "bbb_vfr_derived.mp4"):
        reader = decord.VideoReader(str(CLIPS / clip))
        times[clip] = reader.get_frame_timestamp(range(len(reader))).tolist()
    out["times"] = np.array(json.dumps(times))
    np.savez_compressed(HERE / "media.npz", **out)


if __name__ == "__main__":
    main()
