"""AdamW with warm-up, cosine decay and clipping, on the parameters that learn."""

from __future__ import annotations

import math

import optax

from livecc_jax.train.config import OptimConfig

Flat = dict[str, object]  # path -> array


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup_ratio` of the steps, then a half cosine to zero."""
    warmup = math.ceil(config.warmup_ratio * steps)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate,
        config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
    )


def decays(params: Flat) -> dict[str, bool]:
    """Weight decay goes to matrices only, not to norms and biases."""
    return {k: not (k.endswith(("bias", "norm", "scale"))) for k in params}


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The chain for flat {path: array} parameters."""
    adam = optax.adamw(
        learning_rate(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decays if config.weight_decay else None,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
