"""What the released streaming loop computes at its own settings, word scores included.

Run where these are installed: `pip install transformers==4.50.0 torch==2.13.0 pillow` and, with
--no-deps, `livecc-utils==0.0.2`.

    python -m tests.goldens.make_released

It writes released.npz beside itself. Unlike make_stream.py it keeps the scores each token was chosen
by, after transformers' own repetition penalty, so that streaming is compared as numbers and not only
as words; the pictures are a real one panned over, and turns may say sixteen tokens, as the demo's.
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
TURNS, LIMIT = 8, 16
END_BIAS = 3.0  # of eight turns some end at once, some after words, and some are cut


def frames(turn):
    """uint8 [F, H, W, 3] of a turn: a window that moves over the picture, two places a second."""
    picture = np.asarray(Image.open(PICTURE).convert("RGB"))
    places = range(6) if turn == 0 else range(4 + 2 * turn, 6 + 2 * turn)
    return np.stack(
        [picture[4 * i : 4 * i + stream.HEIGHT, 12 * i : 12 * i + stream.WIDTH] for i in places]
    )


def main():
    """Write the file."""
    stream.frames = frames
    network = build(False)
    with torch.no_grad():
        network.lm_head.weight[tiny.IM_END] *= END_BIAS
    generate = network.generate
    scores = []

    def keeping_scores(**settings):
        out = generate(**settings, output_scores=True)
        kept = np.full((LIMIT, tiny.VOCAB), np.nan, np.float32)
        kept[: len(out.scores)] = torch.cat(out.scores).numpy()
        scores.append(kept)
        return out

    network.generate = keeping_scores
    stream.TURNS, stream.LIMIT = TURNS, LIMIT
    said = stream.released(network)
    print(said)
    np.savez_compressed(HERE / "released.npz", said=said, scores=np.stack(scores))


if __name__ == "__main__":
    main()
