"""One training step: loss, gradients, accumulation, update, in one compiled call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.train.config import ComputeConfig
from livecc_jax.train.loss import target_losses
from livecc_jax.train.state import State, join, split

Rows = dict[str, jax.Array]  # packed rows, see docs/formats.md
Flat = dict[str, jax.Array]


def weighted_loss(
    model: ModelConfig, compute: ComputeConfig, learning: Flat, frozen: Flat, rows: Rows
) -> tuple[jax.Array, jax.Array]:
    """Summed loss of packed rows [B, ...].

    Returns:
        (sum of weight x cross entropy, sum of cross entropy over all targets), float32 scalars.
    """
    dtype = jnp.dtype(compute.dtype)
    # Cast once, before any use: matrix products and the gathers of sharded weights move half the bytes.
    params = jax.tree.map(lambda x: x.astype(dtype), join(learning, jax.lax.stop_gradient(frozen)))
    bound = bind(model, params, compute.lora.scale)
    hidden = bound.hidden(rows, compute.remat, compute.unroll)
    losses = target_losses(
        bound.text.logits, hidden, rows["tokens"], rows["target_slots"], compute.head_chunk
    )
    weights = rows["target_weights"]
    return jnp.sum(losses * weights), jnp.sum(losses * (weights > 0))


def gradients(
    model: ModelConfig, compute: ComputeConfig, params: Any, batch: Rows
) -> tuple[Flat, dict[str, jax.Array]]:
    """Gradients of the weighted mean loss over a batch [accumulate, B, ...], and its metrics.

    The mean is over the whole batch, whatever its split into micro-batches: the total weight is known
    from the data before any forward pass.
    """
    learning, frozen = split(params, compute.frozen)
    total = jnp.maximum(jnp.sum(batch["target_weights"]), 1e-9)

    def loss(learning: Flat, rows: Rows) -> tuple[jax.Array, jax.Array]:
        weighted, plain = weighted_loss(model, compute, learning, frozen, rows)
        return weighted / total, plain

    def micro(carry: Any, rows: Rows) -> tuple[Any, None]:
        return jax.tree.map(
            jnp.add, carry, jax.value_and_grad(loss, has_aux=True)(learning, rows)
        ), None

    if batch["tokens"].shape[0] == 1:
        rows = jax.tree.map(lambda x: x[0], batch)
        (mean, plain), grads = jax.value_and_grad(loss, has_aux=True)(learning, rows)
    else:
        zero = (jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, learning)
        ((mean, plain), grads), _ = jax.lax.scan(micro, zero, batch)

    targets = jnp.sum(batch["target_weights"] > 0)
    metrics = {
        "loss": mean,
        "token_loss": plain / jnp.maximum(targets, 1),
        "grad_norm": optax.global_norm(grads),
        "targets": targets,
        "tokens": jnp.sum(batch["segment_ids"] > 0),
    }
    return grads, metrics


def compiler_options(compute: ComputeConfig, platform: str) -> dict[str, bool]:
    """For `jax.jit` of a step on devices of this platform.

    Once the layers are unrolled, XLA's GPU compiler fuses slices of their stacked weights into matrix
    products of its own (Triton), which are slower than the library's and a copy of the slice together.
    """
    return {"xla_gpu_enable_triton_gemm": False} if compute.unroll and platform == "gpu" else {}


def jit_step(
    step: Callable[[State, Rows], tuple[State, Any]],
    state: State,
    options: dict[str, bool] | None = None,
) -> Any:
    """`jax.jit` of a step whose state is donated and comes back where it lay.

    Left to itself, XLA may split slots of the optimizer over axes that their parameter is not split
    over, and the next call would be another program.

    Args:
        step: from `make_step`, guarded or not.
        state: arrays, or their shapes, with the shardings that they keep.
        options: of the compiler.
    """
    places = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        step, donate_argnums=0, out_shardings=(places, None), compiler_options=options or None
    )


def make_step(
    model: ModelConfig, compute: ComputeConfig, optimizer: optax.GradientTransformation
) -> Callable[[State, Rows], tuple[State, dict[str, jax.Array]]]:
    """The step to jit, with its state donated: (state, batch [A, B, ...]) -> (state, metrics)."""

    def step(state: State, batch: Rows) -> tuple[State, dict[str, jax.Array]]:
        grads, metrics = gradients(model, compute, state["params"], batch)
        learning, frozen = split(state["params"], compute.frozen)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state["opt_state"], learning)
            learning = optax.apply_updates(learning, updates)
        return {"params": join(learning, frozen), "opt_state": opt_state}, metrics

    return step
