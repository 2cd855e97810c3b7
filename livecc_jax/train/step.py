"""The training step: loss, gradients, accumulation and update in one compiled call."""

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
from livecc_jax.train.state import State, join_params, split_trainable

Rows = dict[str, jax.Array]  # fields of packed rows, see docs/formats.md
FlatParams = dict[str, jax.Array]  # {path: array}


def weighted_loss(
    model: ModelConfig, compute: ComputeConfig, trainable: FlatParams, frozen: FlatParams, rows: Rows
) -> tuple[jax.Array, jax.Array]:
    """Computes the summed loss of packed rows.

    Args:
        model: The architecture.
        compute: How it is computed.
        trainable: Parameters that gradients flow to.
        frozen: All other parameters.
        rows: Fields of packed rows, each [B, ...].

    Returns:
        (sum of weight x cross entropy, sum of cross entropy over all targets), float32 scalars.
    """
    dtype = jnp.dtype(compute.dtype)
    # Cast once, before any use: matrix products and the gathers of sharded weights move half the bytes.
    params = join_params(trainable, jax.lax.stop_gradient(frozen))
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    bound = bind(model, params, compute.lora.scale)
    hidden_BTD = bound.hidden_states(rows, compute.remat, compute.unroll)
    losses_BN = target_losses(
        bound.text.logits, hidden_BTD, rows["tokens"], rows["target_slots"], compute.head_chunk
    )
    weights_BN = rows["target_weights"]
    return jnp.sum(losses_BN * weights_BN), jnp.sum(losses_BN * (weights_BN > 0))


def gradients(
    model: ModelConfig, compute: ComputeConfig, params: Any, batch: Rows
) -> tuple[FlatParams, dict[str, jax.Array]]:
    """Computes the gradients of the weighted mean loss over a batch, and the metrics of the step.

    The mean is over the whole batch, however it is split into micro-batches: the total weight is
    computed from the data before any forward pass.

    Args:
        model: The architecture.
        compute: How it is computed.
        params: Nested tree of all parameters.
        batch: Fields of packed rows, each [accumulate, B, ...].

    Returns:
        (float32 gradients of the trainable parameters {path: array}, scalar metrics by name).
    """
    trainable, frozen = split_trainable(params, compute.frozen)
    total_weight = jnp.maximum(jnp.sum(batch["target_weights"]), 1e-9)

    def loss(trainable: FlatParams, rows: Rows) -> tuple[jax.Array, jax.Array]:
        weighted, unweighted = weighted_loss(model, compute, trainable, frozen, rows)
        return weighted / total_weight, unweighted

    def add_micro_batch(carry: Any, rows: Rows) -> tuple[Any, None]:
        return jax.tree.map(
            jnp.add, carry, jax.value_and_grad(loss, has_aux=True)(trainable, rows)
        ), None

    if batch["tokens"].shape[0] == 1:
        rows = jax.tree.map(lambda x: x[0], batch)
        (mean, unweighted), grads = jax.value_and_grad(loss, has_aux=True)(trainable, rows)
    else:
        zero = (jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trainable)
        ((mean, unweighted), grads), _ = jax.lax.scan(add_micro_batch, zero, batch)

    targets = jnp.sum(batch["target_weights"] > 0)
    metrics = {
        "loss": mean,
        "token_loss": unweighted / jnp.maximum(targets, 1),
        "grad_norm": optax.global_norm(grads),
        "targets": targets,
        "tokens": jnp.sum(batch["segment_ids"] > 0),
    }
    return grads, metrics


def compiler_options(compute: ComputeConfig, platform: str) -> dict[str, bool]:
    """Returns the compiler options of a step on devices of this platform, for `jit_step`.

    Once the layers are unrolled, XLA's GPU compiler fuses slices of their stacked weights into Triton
    matrix products, which are slower than a copy of the slice and a library product together.
    """
    return {"xla_gpu_enable_triton_gemm": False} if compute.unroll and platform == "gpu" else {}


def jit_step(
    step: Callable[[State, Rows], tuple[State, Any]],
    state: State,
    options: dict[str, bool] | None = None,
) -> Any:
    """Returns `jax.jit` of a step that donates its state and returns it with the same shardings.

    Without `out_shardings`, XLA may shard the optimizer state over axes that its parameters are not
    sharded over, and the next call would compile another program.

    Args:
        step: The result of `make_step`, guarded or not.
        state: Arrays, or `jax.ShapeDtypeStruct`s, with their shardings.
        options: Compiler options.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        step, donate_argnums=0, out_shardings=(shardings, None), compiler_options=options or None
    )


def make_step(
    model: ModelConfig, compute: ComputeConfig, optimizer: optax.GradientTransformation
) -> Callable[[State, Rows], tuple[State, dict[str, jax.Array]]]:
    """Returns the training step, to be compiled by `jit_step`.

    The step maps (state, batch [accumulate, B, ...]) to (state, metrics).
    """

    def step(state: State, batch: Rows) -> tuple[State, dict[str, jax.Array]]:
        grads, metrics = gradients(model, compute, state["params"], batch)
        trainable, frozen = split_trainable(state["params"], compute.frozen)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state["opt_state"], trainable)
            trainable = optax.apply_updates(trainable, updates)
        return {"params": join_params(trainable, frozen), "opt_state": opt_state}, metrics

    return step
