"""LiveCC's fine-tuning recipe (arXiv 2504.16030): streaming clips mixed with question answering.

livecc index whisperx.jsonl qa.jsonl --out index --model runs/pretrain
livecc train configs/sft_7b.py --init runs/pretrain --data.index index --run runs/sft
"""

import dataclasses
import runpy
from pathlib import Path

_base = runpy.run_path(str(Path(__file__).parent / "pretrain_7b.py"))["config"]
config = dataclasses.replace(_base, optim=dataclasses.replace(_base.optim, learning_rate=1e-5))
