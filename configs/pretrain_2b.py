"""LiveCC's pre-training recipe for 2B, with the rows, examples and learning rate of `pretrain_7b.py`.

    livecc index captions.jsonl --out index --model Qwen2-VL-2B --pixel-budget 384
    livecc train configs/pretrain_2b.py --init Qwen2-VL-2B --data.index index --run runs/pretrain

On one GPU of 80 GB a row of 32,768 tokens fits if only the outputs of attention are stored
(`--compute.remat attention`). A row of 16,384 tokens also fits with the outputs of matrix products
stored, which is a little faster: `--data.tokens 16384 --compute.remat dots --compute.unroll true`; the
number of examples of a row then changes ("Examples a step" in docs/pods.md). One device computes the
rows of a step one after another: `--optim.accumulate 384`.
"""

import runpy
from pathlib import Path

config = runpy.run_path(str(Path(__file__).parent / "pretrain_7b.py"))["config"]
