"""What the checkpoint tests share: a tiny model, exact comparison."""

import dataclasses

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.names import table
from livecc_jax.model.presets import preset


def config_of(tied=False):
    tiny = preset("tiny")
    return dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, vocab_size=48, tied=tied))


def random_params(config, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    flat = {e.path: rng.standard_normal(e.full_shape).astype(dtype) for e in table(config)}
    return traverse_util.unflatten_dict(flat, sep="/")


def assert_same(a, b):
    """Equal in structure, dtype and every bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert np.dtype(x.dtype) == np.dtype(y.dtype)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
