"""The optimizer of the trainable parameters: AdamW with warm-up, cosine decay and gradient clipping."""

from __future__ import annotations

import math

import optax

from livecc_jax.train.config import OptimConfig

FlatParams = dict[str, object]  # {path: array}


def learning_rate_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Returns a linear warm-up over `warmup_ratio` of the steps, then a half cosine to zero."""
    warmup = math.ceil(config.warmup_ratio * steps)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate,
        config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
    )


def weight_decay_mask(params: FlatParams) -> dict[str, bool]:
    """Returns which parameters have weight decay: matrices, not norms and biases."""
    return {k: not (k.endswith(("bias", "norm", "scale"))) for k in params}


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Builds the optimizer for flat parameters {path: array}.

    Args:
        config: Hyperparameters.
        steps: Number of steps of the run, which the learning rate schedule spans.
    """
    adam = optax.adamw(
        learning_rate_schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=weight_decay_mask if config.weight_decay else None,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
