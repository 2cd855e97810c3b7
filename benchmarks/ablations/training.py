"""Trains on packed rows in memory: the project's step, packing and rows, without a run directory."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from livecc_jax.data.examples.encode import encode_example
from livecc_jax.data.rows.packing import pack_rows
from livecc_jax.data.rows.row import build_row
from livecc_jax.errors import ExampleError


@dataclass
class Examples:
    """Encoded examples, and the files that hold their pictures."""

    encoded: list
    files: object

    def loaded(self, i):
        """Example i with the patches of its media."""
        return self.encoded[i], [self.files.patches(m) for m in self.encoded[i].media]


def encode_all(examples, template, budget, files, threads=4, **options):
    """Encodes examples; those that cannot be used are left out and counted."""

    def encode(example):
        try:
            return encode_example(example, template, budget, files=files, **options)
        except ExampleError:
            return None

    with ThreadPoolExecutor(threads) as pool:
        encoded = list(pool.map(encode, examples))
    kept = [e for e in encoded if e is not None]
    return Examples(kept, files), len(encoded) - len(kept)


class Rows:
    """Packed rows, built once and kept on the device; each step takes some of them.

    Args:
        examples: What is packed.
        shape: Shape of a row.
        special: Ids of the special tokens.
        rows_per_step: Rows of a step.
        steps: Number of steps; epochs are repeated as needed.
        seed: Seed of the packing.
        positions: Position mode.
        weighting: `token` or `example`.
        pack: Whether several examples may share a row.
        max_rows: Most different rows; more epochs than fill them are repetitions in another order.
    """

    def __init__(self, examples, shape, special, rows_per_step, steps, *, seed=0, positions="mrope",
                 weighting="token", pack=True, threads=4, max_rows=1536):  # fmt: skip
        self.examples, self.shape, self.special = examples, shape, special
        self.rows_per_step, self.steps = rows_per_step, steps
        self.positions, self.weighting, self.threads = positions, weighting, threads
        sizes = np.array([(e.tokens, e.windows(shape.window), e.targets) for e in examples.encoded])
        epochs = []
        needed = rows_per_step * steps
        while sum(map(len, epochs)) < needed:
            if epochs and sum(map(len, epochs)) + len(epochs[0]) > max_rows:
                rng = np.random.default_rng([seed, len(epochs)])
                again = epochs[int(rng.integers(self.different))]
                epochs.append([again[i] for i in rng.permutation(len(again))])
                continue
            if pack:
                packing = pack_rows(*sizes.T, shape, seed * 1000 + len(epochs), 1)
                epochs.append([tuple(packing.row(r)) for r in range(len(packing))])
            else:
                fits = (sizes <= (shape.tokens, shape.windows, shape.targets)).all(1)
                rng = np.random.default_rng([seed, len(epochs)])
                epochs.append([(int(i),) for i in rng.permutation(np.flatnonzero(fits))])
            self.different = len(epochs)
        self.rows_per_epoch = len(epochs[0])
        order = [row for epoch in epochs for row in epoch][:needed]
        self.unique = list(dict.fromkeys(order))
        number = {row: i for i, row in enumerate(self.unique)}
        self.order = np.array([number[row] for row in order], np.int32).reshape(steps, rows_per_step)
        self.examples_per_row = float(np.mean([len(row) for row in order]))
        self.tokens = np.array([sum(int(sizes[i, 0]) for i in row) for row in self.unique])

    def row(self, number):
        """Row `number` of the different ones."""
        loaded = [self.examples.loaded(j) for j in self.unique[number]]
        return build_row(loaded, self.shape, self.special, self.positions, self.weighting)

    def on_device(self):
        """All different rows on the device: each field [rows, ...]."""
        import jax
        import jax.numpy as jnp

        chunks = []
        with ThreadPoolExecutor(self.threads) as pool:
            rows = pool.map(self.row, range(len(self.unique)))
            for first in range(0, len(self.unique), 64):
                part = [next(rows) for _ in range(first, min(first + 64, len(self.unique)))]
                chunks.append(jax.device_put({k: np.stack([r[k] for r in part]) for k in part[0]}))
        bank = {}
        for name in list(chunks[0]):
            bank[name] = jnp.concatenate([c.pop(name) for c in chunks])
        return bank


@dataclass
class Trained:
    """The result of training.

    Attributes:
        params: Parameters on the device.
        losses: Loss of every 20th step, and the last.
        stats: Steps, seconds, tokens a second, share of the time spent waiting for rows.
    """

    params: object
    losses: list
    stats: dict

    def curve(self, points=40):
        """(step, loss) at about so many steps."""
        every = max(1, len(self.losses) // points)
        return [[step, round(loss, 4)] for step, loss in self.losses[::every]]


_compiled = {}  # steps by what they were compiled for: jobs share them


def train(model, rows, optim, compute, seed, params=None, log=print):
    """Trains from random parameters, or from `params`.

    The first three steps, which compile, are left out of the rates.
    """
    import jax
    import jax.numpy as jnp

    from livecc_jax.model.lora import LORA, init_adapters
    from livecc_jax.model.qwen2_vl import init_params
    from livecc_jax.train.optimizer import make_optimizer
    from livecc_jax.train.state import split_trainable
    from livecc_jax.train.step import compiler_options, jit_step, make_step

    if params is None:
        params = jax.jit(lambda: init_params(model, seed))()
    params = jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
    if compute.lora.rank:
        params = params | {LORA: init_adapters(model, compute.lora, seed)}
    optimizer = make_optimizer(optim, rows.steps)
    trainable, _ = split_trainable(params, compute.frozen)
    state = {"params": params, "opt_state": jax.jit(optimizer.init)(trainable)}
    del trainable, params
    key = (model, compute, optim, rows.steps)
    if key not in _compiled:
        options = compiler_options(compute, jax.devices()[0].platform)
        _compiled[key] = jit_step(make_step(model, compute, optimizer), state, options)
    step = _compiled[key]
    building = time.perf_counter()
    bank = jax.block_until_ready(rows.on_device())
    building = time.perf_counter() - building
    take = _compiled.setdefault(
        "take", jax.jit(lambda bank, index: {k: v[index][None] for k, v in bank.items()})
    )
    losses, pending, began, tokens, waited = [], None, time.perf_counter(), 0, 0.0
    for number in range(rows.steps):
        if number == 3:
            jax.block_until_ready(state)
            began, waited, tokens = time.perf_counter(), 0.0, 0
        before = time.perf_counter()
        batch = take(bank, rows.order[number])
        waited += time.perf_counter() - before
        tokens += int(rows.tokens[rows.order[number]].sum())
        state, metrics = step(state, batch)
        if pending is not None and pending[0] % 20 == 0:
            losses.append((pending[0], float(pending[1]["token_loss"])))
            if pending[0] % 200 == 0:
                log(f"step {pending[0]}: loss {losses[-1][1]:.3f}")
        pending = number, metrics
    losses.append((pending[0], float(pending[1]["token_loss"])))
    seconds = time.perf_counter() - began
    stats = {
        "steps": rows.steps,
        "rows_per_step": rows.rows_per_step,
        "examples_per_row": round(rows.examples_per_row, 2),
        "epochs": round(rows.steps * rows.rows_per_step / max(rows.rows_per_epoch, 1), 2),
        "train_seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
        "waiting": round(waited / max(seconds, 1e-9), 4),
        "row_seconds": round(building, 1),
        "different_rows": len(rows.unique),
        "final_loss": round(float(np.mean([x for _, x in losses[-5:]])), 4),
    }
    return Trained(state["params"], losses, stats)
