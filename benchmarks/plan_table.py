"""Prints the table of benchmarks/results/plan.md: pre-training 7B at 32,768 tokens on TPU slices.

    JAX_PLATFORMS=cpu python benchmarks/plan_table.py [SLICE ...]

Each line is the real training step compiled for the slice (libtpu, no TPU needed). It takes one to five
minutes of a CPU core and under 3 GiB of memory. Without arguments all lines are printed.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax

from livecc_jax.errors import ConfigError
from livecc_jax.model.presets import preset
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.planning.chips import GIB, Topology
from livecc_jax.planning.training import plan_training
from livecc_jax.train.config import load_config

TOKENS = 1e11
WINDOW = 4 * 384  # patches, at a pixel budget of 384

# Name: (topology, slices, mesh, micro-batches a step, remat)
LINES = {
    "v5e:16x16": ("v5e:16x16", 1, MeshConfig(context=2), 3, "full"),
    "v5p:4x4x4": ("v5p:4x4x4", 1, MeshConfig(), 6, "attention"),
    "v5p:4x4x8": ("v5p:4x4x8", 1, MeshConfig(), 3, "attention"),
    "v6e:8x8": ("v6e:8x8", 1, MeshConfig(), 6, "full"),
    "2xv5e:16x16": ("v5e:16x16", 2, MeshConfig(data=2, context=2, tensor=2), 3, "full"),
}


def table_line(name):
    """Plans one slice; returns a line of the table."""
    topology, slices, mesh, micro, remat = LINES[name]
    config = load_config(Path(__file__).parents[1] / "configs/pretrain_7b.py")
    config = dataclasses.replace(
        config,
        mesh=mesh,
        optim=dataclasses.replace(config.optim, accumulate=micro),
        compute=dataclasses.replace(config.compute, remat=remat),
    )
    try:
        plan = plan_training(config, preset("7b"), Topology.parse(topology, slices), window=WINDOW)
    except ConfigError as error:
        return f"| {name} | {error} |"
    shape = " x ".join(f"{axis} {n}" for axis, n in plan.mesh.items() if n > 1)
    temporary = plan.memory["activations and temporaries"]
    sent = ", ".join(f"{kind} {n / 1e9:.0f}" for kind, n in sorted(plan.exchanged.items()) if n > 5e8)
    return (
        f"| {plan.topology} | {shape} | {remat}, {micro} | "
        f"{plan.used / GIB:.1f} of {plan.hbm / GIB:.1f} ({temporary / GIB:.1f}) | "
        f"{sum(plan.flops.values()):.2e} / {plan.model_flops:.2e} | {sent} | "
        f"{plan.step_seconds:.1f} ({plan.bound}) | {plan.mfu:.0%} / {plan.mfu_serial:.0%} | "
        f"{plan.days(TOKENS):.1f} | {plan.compile_seconds:.0f} s, {plan.host_bytes / GIB:.1f} GiB |"
    )


def main():
    jax.config.update("jax_platforms", "cpu")
    print("| slice | mesh | remat, micro-batches | GiB a chip (temporaries) | FLOPs counted / needed | "
          "GB sent by a chip | step, s | MFU at most: overlapped / serial | days for 1e11 tokens | "
          "compiling |")  # fmt: skip
    print("|---" * 10 + "|", flush=True)
    for name in sys.argv[1:] or LINES:
        if name not in LINES:
            raise SystemExit(f"{name}: not one of {', '.join(LINES)}")
        print(table_line(name), flush=True)


if __name__ == "__main__":
    main()
