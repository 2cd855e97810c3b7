"""Random weights as before training, for the scripts of this folder."""

import functools

import jax

from livecc_jax.model.qwen2_vl import abstract_params


def is_norm(path):
    """Whether a weight, by its path ("text/layers/input_norm"), scales a norm; stacked or not."""
    return path.endswith(("norm", "scale"))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _normal(seed, shape, dtype, std, mean):
    return mean + std * jax.random.normal(jax.random.key(seed, impl="rbg"), shape, dtype)


def random_weight(path, seed, shape, dtype, std=0.02):
    """Normally distributed around 0, or around 1 where it scales a norm; made on the device."""
    return _normal(seed, tuple(shape), dtype, std, float(is_norm(path)))


def random_params(config, dtype="bfloat16", std=0.02):
    """A tree like `abstract_params(config)`."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract_params(config))
    made = []
    for seed, (keys, like) in enumerate(leaves):
        path = "/".join(key.key for key in keys)
        made.append(random_weight(path, seed, like.shape, dtype, std))
    return jax.tree.unflatten(tree, made)
