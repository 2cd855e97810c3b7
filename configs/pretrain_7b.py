"""LiveCC's pre-training recipe (arXiv 2504.16030) on packed rows: 7B, vision tower and merger frozen.

    livecc index captions.jsonl --out index --model Qwen2-VL-7B --pixel-budget 384
    livecc train configs/pretrain_7b.py --init Qwen2-VL-7B --data.index index --run runs/pretrain

Published: 512 examples a step, AdamW, 2e-5 with a warm-up of 0.03 and a cosine schedule, one epoch,
bfloat16, at most 32,768 tokens. A packed row holds 1.27 such examples on average (clips of 30 to
240 s at 384 tokens a second, long ones split), so 402 rows hold 512. The config has 384 rows (489
examples) because 384 divides over 64 and 128 chips. With example weighting every example has the same
weight, as in the published recipe. For other data or another budget, see "Examples a step" in
docs/pods.md.
"""

from livecc_jax.train.config import CheckpointConfig, ComputeConfig, Config, DataConfig, OptimConfig

config = Config(
    positions="mrope",
    data=DataConfig(
        tokens=32768, windows=96, targets=2048, rows_per_step=384, weighting="example", epochs=1
    ),
    optim=OptimConfig(learning_rate=2e-5, warmup_ratio=0.03),
    compute=ComputeConfig(dtype="bfloat16", remat="full", freeze=("vision",)),
    checkpoint=CheckpointConfig(every=250, keep=3),
)
