"""Compares a training step on one GPU and on two, sharded along every axis: losses and speed.

    python benchmarks/two_gpus.py                      # two GPUs: about six minutes
    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2 python benchmarks/two_gpus.py --preset tiny --tokens 1700

The step is the real one (`train.step`): 2B, tower frozen, packed rows of four clips each (random tokens
and images), float32 parameters and AdamW, bfloat16 compute. Two parts, both on one device and then on
two as `fsdp=2`, `context=2` and `tensor=2`:

1. The preset `small` in float32 (attention goes through plain XLA there): losses and gradient norms.
2. The preset asked for in bfloat16: losses and gradient norms, then tokens a second of two rows a step.
   On one device, and where both devices share a row (`context`, `tensor`), they are two micro-batches;
   with `fsdp` each device has one row.

Exits with 1 if a loss or a norm differs from that of one device by more than its tolerance.
"""

import argparse
import sys
import time

import numpy as np
from train_gpu import PATCHES, WORDS, packed_row, timed

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3}  # of a loss; ten times that of a gradient norm
SPLITS = ("one", "fsdp", "context", "tensor")


def rows_of(pairs, rows):
    """Random rows [rows, ...], each with another seed."""
    batch = [{k: v[0] for k, v in packed_row(pairs, seed).items()} for seed in range(rows)]
    return {k: np.concatenate([row[k] for row in batch]) for k in batch[0]}


class Step:
    """The compiled step of a model on one device or on two, and its state.

    Args:
        config: The architecture.
        compute: How the step is computed.
        split: The mesh axis that has two devices, or "one".
        rows: The rows of a step, [B, ...].
        micro_batches: Number of micro-batches.
        std: Standard deviation of the random weights.
    """

    def __init__(self, config, compute, split, rows, micro_batches, std=0.02):
        import jax
        from random_weights import is_norm

        from livecc_jax.model.qwen2_vl import abstract_params
        from livecc_jax.parallel.batch import shard_batch
        from livecc_jax.parallel.mesh import MeshConfig, make_mesh
        from livecc_jax.train import state as states
        from livecc_jax.train.config import OptimConfig
        from livecc_jax.train.optimizer import make_optimizer
        from livecc_jax.train.step import compiler_options, jit_step, make_step

        sizes = {"fsdp": 1} | ({} if split == "one" else {split: 2})
        mesh = make_mesh(MeshConfig(**sizes, devices=1 if split == "one" else 2))
        optimizer = make_optimizer(OptimConfig(learning_rate=1e-4, warmup_ratio=0.0), 1000)
        shapes, _ = states.split_trainable(abstract_params(config), ())
        shardings, _ = states.split_trainable(states.param_shardings(config, mesh), ())
        _, frozen = states.split_trainable(abstract_params(config), compute.frozen)

        def random_weight(seed, shape, dtype, mean):  # threefry: the same for every sharding
            return mean + std * jax.random.normal(jax.random.key(seed), shape, dtype)

        params = {}
        for i, (path, leaf) in enumerate(shapes.items()):
            dtype = compute.dtype if path in frozen else "float32"
            init = jax.jit(random_weight, static_argnums=(1, 2, 3), out_shardings=shardings[path])
            params[path] = init(i, leaf.shape, dtype, float(is_norm(path)))
        params = states.join_params(params, {})
        param_shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
        )
        abstract = states.abstract_state(param_shapes, optimizer, compute.frozen, mesh)
        opt_state = states.init_opt_state(optimizer, abstract, compute.frozen)(params)
        self._state = {"params": params, "opt_state": opt_state}
        options = compiler_options(compute, mesh.devices.flat[0].platform)
        with jax.set_mesh(mesh):
            self._batch = shard_batch(mesh, rows, micro_batches)
            step = jit_step(make_step(config, compute, optimizer), self._state, options)
            start = time.perf_counter()
            self._step = step.lower(self._state, self._batch).compile()
        self.compile_seconds = time.perf_counter() - start
        self.uses_cudnn = "cudnn$fmha" in self._step.as_text()  # float32 goes through plain XLA
        memory = self._step.memory_analysis()
        self.memory_bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes

    def __call__(self):
        """Starts a step; returns a function that waits for it and returns (loss, gradient norm)."""
        self._state, metrics = self._step(self._state, self._batch)
        return lambda: (float(metrics["loss"]), float(metrics["grad_norm"]))


def equality(name, config, compute, rows, steps):
    """Returns whether losses and gradient norms agree, for rows of one micro-batch."""
    results = {}
    for split in SPLITS:
        step = Step(config, compute, split, rows, 1, std=0.06)  # so that every part matters to the loss
        results[split] = np.array([step()() for _ in range(steps)])
        values = "  ".join(f"{loss:.6f} {norm:.5f}" for loss, norm in results[split])
        print(f"{name} {split + ('' if split == 'one' else '=2'):10s} loss, norm: {values}", flush=True)
        del step
    limit = TOLERANCE[compute.dtype]
    all_equal = True
    for split in SPLITS[1:]:
        loss, norm = np.max(np.abs(results[split] / results["one"] - 1), axis=0)
        equal = bool(loss <= limit and norm <= 10 * limit)
        all_equal &= equal
        print(
            f"{name} {split}=2: loss within {loss:.1e} of one device's, norm within {norm:.1e} "
            f"(allowed {limit:g}, {10 * limit:g}){'' if equal else '  NOT EQUAL'}",
            flush=True,
        )
    return all_equal


def measure(config, compute, rows, steps, equal_steps):
    """Prints losses and speed of one compiled step for each split; returns whether losses agree."""
    import jax

    tokens = int((rows["segment_ids"] > 0).sum())
    first, base_speed, all_equal = None, None, True
    for split in SPLITS:
        micro_batches = 1 if split == "fsdp" else len(rows["tokens"])
        try:
            step = Step(config, compute, split, rows, micro_batches)
        except jax.errors.JaxRuntimeError as error:
            print(f"{split}: {str(error).splitlines()[0][:160]}", flush=True)
            all_equal = False
            continue
        results = np.array([step()() for _ in range(equal_steps)])
        seconds = timed(step, steps)
        speed = tokens / seconds
        base_speed = speed if split == "one" else base_speed
        first = results if split == "one" else first
        name = split if split == "one" else f"{split}=2"
        print(
            f"{name}: {1e3 * seconds:.0f} ms, {speed:,.0f} tokens/s"
            + (f", {speed / base_speed:.2f} times one device" if base_speed else "")
            + f", {step.memory_bytes / 2**30:.1f} GiB a device, attention "
            + ("through cuDNN" if step.uses_cudnn else "in plain XLA")
            + f", compiled in {step.compile_seconds:.0f} s",
            flush=True,
        )
        print("  loss, norm: " + "  ".join(f"{a:.5f} {b:.4f}" for a, b in results), flush=True)
        if split != "one" and first is not None:
            loss, norm = np.max(np.abs(results / first - 1), axis=0)
            limit = TOLERANCE[compute.dtype]
            equal = bool(loss <= limit and norm <= 10 * limit)
            all_equal &= equal
            print(
                f"  loss within {loss:.1e} of one device's, norm within {norm:.1e} "
                f"(allowed {limit:g}, {10 * limit:g}){'' if equal else '  NOT EQUAL'}",
                flush=True,
            )
        del step
    return all_equal


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="2b")
    parser.add_argument("--tokens", type=int, default=8848, help="of a row, about so many")
    parser.add_argument("--steps", type=int, default=8, help="timed")
    parser.add_argument("--equal", type=int, default=4, help="steps whose losses are compared")
    parser.add_argument("--remat", default="dots")
    parser.add_argument("--no-unroll", dest="unroll", action="store_false")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()

    import jax

    from livecc_jax.model.presets import preset
    from livecc_jax.train.config import ComputeConfig

    if jax.device_count() < 2:
        raise SystemExit(f"{jax.device_count()} device; two are needed")
    pairs = max(4, args.tokens // (PATCHES // 4 + WORDS))
    print(
        f"2 x {jax.devices()[0].device_kind}, jax {jax.__version__}, {time.strftime('%Y-%m-%d')}",
        flush=True,
    )
    small = preset("small" if args.preset != "tiny" else "tiny")
    exact = ComputeConfig(dtype="float32", remat="full")
    with jax.default_matmul_precision("highest"):
        all_equal = equality("small, float32,", small, exact, rows_of(4, 2), args.equal)
    rows = rows_of(pairs, 2)
    settings = f"remat {args.remat}" + (", unrolled" if args.unroll else "")
    print(
        f"{args.preset}, {args.dtype}, {settings}: 2 rows of {rows['tokens'].shape[1]} tokens "
        f"in 4 clips, {pairs * PATCHES} patches and {rows['target_slots'].shape[1]} supervised each",
        flush=True,
    )
    compute = ComputeConfig(dtype=args.dtype, remat=args.remat, unroll=args.unroll)
    all_equal &= measure(preset(args.preset), compute, rows, args.steps, args.equal)
    print("equal within the tolerances" if all_equal else "NOT EQUAL", flush=True)
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
