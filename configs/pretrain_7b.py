"""LiveCC's pre-training recipe (arXiv 2504.16030) on packed rows: 7B, vision tower frozen.

    livecc index captions.jsonl --out index --model Qwen2-VL-7B --pixel-budget 384
    livecc train configs/pretrain_7b.py --init Qwen2-VL-7B --data.index index --run runs/pretrain

The published run had 512 examples of up to 32,768 tokens a step, unpacked; here a step has as many
packed rows as its batch is meant to hold tokens. Example weighting averages as the released code does.
"""

from livecc_jax.train.config import CheckpointConfig, ComputeConfig, Config, DataConfig, OptimConfig

config = Config(
    positions="mrope",
    data=DataConfig(
        tokens=32768, windows=96, targets=2048, rows_per_step=256, weighting="example", epochs=1
    ),
    optim=OptimConfig(learning_rate=2e-5, warmup_ratio=0.03),
    compute=ComputeConfig(dtype="bfloat16", remat="full", freeze=("vision",)),
    checkpoint=CheckpointConfig(every=250, keep=3),
)
