"""LiveCC's fine-tuning recipe for 2B, with the rows, examples and learning rate of `sft_7b.py`.

    livecc index whisperx.jsonl qa.jsonl --out index --model runs/pretrain
    livecc train configs/sft_2b.py --init runs/pretrain --data.index index --run runs/sft

For memory and speed on a GPU see `pretrain_2b.py`.
"""

import runpy
from pathlib import Path

config = runpy.run_path(str(Path(__file__).parent / "sft_7b.py"))["config"]
