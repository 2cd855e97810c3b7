"""Random weights that are large enough for every token to change the logits."""

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.weight_names import weight_name_table


def large_random_params(config, zero_embeddings_from=None):
    """Float32 parameters; embeddings of token ids from `zero_embeddings_from` on are zero."""
    rng = np.random.default_rng(0)
    flat = {}
    for e in weight_name_table(config):
        flat[e.path] = jnp.asarray(0.2 * rng.standard_normal(e.full_shape), jnp.float32)
        if "norm" in e.path and not e.path.endswith("bias"):
            flat[e.path] += 1
    if zero_embeddings_from is not None:
        flat["text/embed"] = flat["text/embed"].at[zero_embeddings_from:].set(0)
    return traverse_util.unflatten_dict(flat, sep="/")
