"""LiveCC's fine-tuning recipe for 2B: that of `sft_7b.py`, its rows, examples and rates.

    livecc index whisperx.jsonl qa.jsonl --out index --model runs/pretrain
    livecc train configs/sft_2b.py --init runs/pretrain --data.index index --run runs/sft

Memory and speed on a GPU are as `pretrain_2b.py` says.
"""

import runpy
from pathlib import Path

config = runpy.run_path(str(Path(__file__).parent / "sft_7b.py"))["config"]
