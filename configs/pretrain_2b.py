"""LiveCC's pre-training recipe for 2B: that of `pretrain_7b.py`, its rows, examples and rates.

    livecc index captions.jsonl --out index --model Qwen2-VL-2B --pixel-budget 384
    livecc train configs/pretrain_2b.py --init Qwen2-VL-2B --data.index index --run runs/pretrain

On one GPU of 80 GB a row of 32,768 tokens fits with what attention gave stored (`--compute.remat
attention`), one of 16,384 with matrix products stored too, which is a little faster:
`--data.tokens 16384 --compute.remat dots --compute.unroll true` (then count the examples of a row anew:
"Examples a step" in docs/pods.md). One device takes a step's rows one after the other:
`--optim.accumulate 384`.
"""

import runpy
from pathlib import Path

config = runpy.run_path(str(Path(__file__).parent / "pretrain_7b.py"))["config"]
