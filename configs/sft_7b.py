"""LiveCC's fine-tuning recipe (arXiv 2504.16030): streaming clips mixed with question answering.

    livecc index whisperx.jsonl qa.jsonl --out index --model runs/pretrain
    livecc train configs/sft_7b.py --init runs/pretrain --data.index index --run runs/sft

As pre-training, with a learning rate of 1e-5. With two short questions for every clip a packed row
holds 2.48 examples, so 206 rows hold the published 512. The config has 192 rows (477 examples) because
192 divides over 64 chips ("Examples a step" in docs/pods.md). A row has up to 4,096 supervised tokens.
"""

import dataclasses
import runpy
from pathlib import Path

_base = runpy.run_path(str(Path(__file__).parent / "pretrain_7b.py"))["config"]
config = dataclasses.replace(
    _base,
    data=dataclasses.replace(_base.data, rows_per_step=192, targets=4096),
    optim=dataclasses.replace(_base.optim, learning_rate=1e-5),
)
