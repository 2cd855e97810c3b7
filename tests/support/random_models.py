"""Random weights, drawn by numpy: nothing is compiled for them."""

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.model.layers import INIT_STD


def initial_params(config, seed=0, dtype=np.float32):
    """Parameters distributed as those of `init_params`: normal kernels, scales of 1, biases of 0."""
    rng, flat = np.random.default_rng(seed), {}
    for e in weight_name_table(config):
        if e.path.endswith("bias"):
            value = np.zeros(e.full_shape)
        elif "norm" in e.path:
            value = np.ones(e.full_shape)
        else:
            value = INIT_STD * rng.standard_normal(e.full_shape)
        flat[e.path] = value.astype(dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def large_random_params(config, zero_embeddings_from=None):
    """Float32 parameters, large enough for every token to change the logits.

    Embeddings of token ids from `zero_embeddings_from` on are zero.
    """
    rng = np.random.default_rng(0)
    flat = {}
    for e in weight_name_table(config):
        flat[e.path] = jnp.asarray(0.2 * rng.standard_normal(e.full_shape), jnp.float32)
        if "norm" in e.path and not e.path.endswith("bias"):
            flat[e.path] += 1
    if zero_embeddings_from is not None:
        flat["text/embed"] = flat["text/embed"].at[zero_embeddings_from:].set(0)
    return traverse_util.unflatten_dict(flat, sep="/")
