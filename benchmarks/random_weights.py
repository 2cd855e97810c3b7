"""Random weights on the device, as before training, for the scripts of this folder."""

import functools

import jax

from livecc_jax.model.qwen2_vl import abstract_params


def is_norm(path):
    """Returns whether a weight is the scale of a norm, by its path ("text/layers/input_norm")."""
    return path.endswith(("norm", "scale"))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _normal(seed, shape, dtype, std, mean):
    return mean + std * jax.random.normal(jax.random.key(seed, impl="rbg"), shape, dtype)


def random_weight(path, seed, shape, dtype, std=0.02):
    """Returns a normally distributed weight, with mean 1 for the scale of a norm and 0 otherwise."""
    return _normal(seed, tuple(shape), dtype, std, float(is_norm(path)))


def random_params(config, dtype="bfloat16", std=0.02):
    """Returns a tree of random weights with the structure of `abstract_params(config)`."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract_params(config))
    weights = []
    for seed, (keys, leaf) in enumerate(leaves):
        path = "/".join(key.key for key in keys)
        weights.append(random_weight(path, seed, leaf.shape, dtype, std))
    return jax.tree.unflatten(tree, weights)
