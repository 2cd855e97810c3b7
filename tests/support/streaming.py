"""A tiny streaming model with the weights of the goldens, and an engine over it."""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import from_dict
from livecc_jax.checkpoints.names import table
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.stream.engine import Engine, EngineOptions
from livecc_jax.stream.history import FULL, Retention
from livecc_jax.stream.session import StreamModel
from livecc_jax.text.tokenizer import SpecialTokens
from tests.goldens import tiny_weights as tiny
from tests.goldens.letters import Letters

GOLDENS = Path(__file__).parents[1] / "goldens"
LIMIT, QUERY = 6, "go on"
SPECIAL = SpecialTokens(
    tiny.END, tiny.IM_START, tiny.IM_END, tiny.VISION_START, tiny.VISION_END, tiny.IMAGE, tiny.VIDEO
)  # fmt: skip
TOKENIZER = Letters(SPECIAL)
CONFIG = from_dict(tiny.CONFIG | {"tie_word_embeddings": False}, GOLDENS)[0]


def frames(turn):
    rng = np.random.RandomState(500 + turn)
    return rng.randint(0, 256, (2 if turn else 6, 56, 84, 3)).astype(np.uint8)


@functools.cache
def params():
    """The goldens' weights, its longer row for the end of a turn included."""
    flat = {}
    for e in table(CONFIG):
        layers = []
        for name in e.names:
            value = tiny.weight(name, e.hf_shape)
            if name == "lm_head.weight":
                value[tiny.IM_END] *= 2.5
            layers.append(jnp.asarray(e.from_hf(value)))
        flat[e.path] = jnp.stack(layers) if e.stacked else layers[0]
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def model():
    return StreamModel(CONFIG, params(), TOKENIZER)


def options(mode, **changes):
    settings = {"positions": mode, "max_new_tokens": LIMIT, "context": 2048}
    return StreamOptions(**(settings | changes))


SHORT = Retention(turns=2, sink=3, window=4)


def engine(retention=FULL, **changes):
    given_options = {"slots": 4, "batch": 4, "pool": 4000, "max_new_tokens": LIMIT}
    return Engine(model(), EngineOptions(retention=retention, **(given_options | changes)))


def picture(conversation, turn):
    """Frames number `turn`; six of them to open."""
    seen = frames(turn)
    return seen if conversation._pushed or len(seen) == 6 else np.concatenate([seen] * 3)
