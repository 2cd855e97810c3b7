"""The run of the demo: trains a small model on the commentary of one clip in minutes on two CPU cores.

livecc train demo --data.index demo_out/index --run demo_out/run
"""

from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.shipped import shipped_data
from livecc_jax.train.config import (
    CheckpointConfig,
    ComputeConfig,
    Config,
    DataConfig,
    OptimConfig,
)

config = Config(
    preset="small",
    tokenizer=str(shipped_data("tokenizer")),
    positions="mrope",
    log_every=10,
    data=DataConfig(tokens=1280, windows=32, targets=128, rows_per_step=1, epochs=70),
    optim=OptimConfig(learning_rate=1e-3, warmup_ratio=0.05, b2=0.95),
    compute=ComputeConfig(dtype="float32", remat="none", freeze=("vision",), head_chunk=128),
    mesh=MeshConfig(devices=1),
    checkpoint=CheckpointConfig(every=30, keep=2),
)
