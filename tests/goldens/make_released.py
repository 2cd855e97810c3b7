"""Writes released.npz: tokens and scores of the released streaming loop at its own settings.

It needs `pip install transformers==4.50.0 torch==2.13.0 pillow` and, with --no-deps,
`livecc-utils==0.0.2`:

    python -m tests.goldens.make_released

Unlike make_stream.py, it stores the scores that each token was selected by, after transformers' own
repetition penalty, so that streaming is compared as numbers and not only as tokens. The frames pan over
a real picture, and turns may have sixteen tokens, as in the demo.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.goldens import make_stream as stream
from tests.goldens import tiny_weights as tiny
from tests.goldens.make_model import build

HERE = Path(__file__).parent
PICTURE = HERE.parents[1] / "data/clips/frame.png"
TURNS, MAX_NEW_TOKENS = 8, 16
END_BIAS = 3.0  # of eight turns, some end at once, some after words, and some at the token limit


def frames(turn):
    """Returns uint8 [F, H, W, 3] of a turn: a window that moves over the picture twice a second."""
    picture = np.asarray(Image.open(PICTURE).convert("RGB"))
    steps = range(6) if turn == 0 else range(4 + 2 * turn, 6 + 2 * turn)
    return np.stack(
        [picture[4 * i : 4 * i + stream.HEIGHT, 12 * i : 12 * i + stream.WIDTH] for i in steps]
    )


def main():
    """Write the file."""
    stream.frames = frames
    network = build(False)
    with torch.no_grad():
        network.lm_head.weight[tiny.IM_END] *= END_BIAS
    generate = network.generate
    scores = []

    def generate_with_scores(**settings):
        out = generate(**settings, output_scores=True)
        padded = np.full((MAX_NEW_TOKENS, tiny.VOCAB), np.nan, np.float32)
        padded[: len(out.scores)] = torch.cat(out.scores).numpy()
        scores.append(padded)
        return out

    network.generate = generate_with_scores
    stream.TURNS, stream.MAX_NEW_TOKENS = TURNS, MAX_NEW_TOKENS
    tokens = stream.released(network)
    print(tokens)
    np.savez_compressed(HERE / "released.npz", said=tokens, scores=np.stack(scores))


if __name__ == "__main__":
    main()
