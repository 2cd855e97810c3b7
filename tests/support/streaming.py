"""A tiny streaming model with the weights of the goldens, and engines over it, real and fake."""

import collections
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import parse_config
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.stream.engine import Engine
from livecc_jax.stream.history import FULL, EvictionPolicy
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.paged_store import PagedStore
from livecc_jax.text.tokenizer import SpecialTokens
from tests.goldens import tiny_weights as tiny
from tests.goldens.letters import LetterTokenizer

GOLDENS = Path(__file__).parents[1] / "goldens"
LIMIT, QUERY = 6, "go on"
SPECIAL = SpecialTokens(
    tiny.END, tiny.IM_START, tiny.IM_END, tiny.VISION_START, tiny.VISION_END, tiny.IMAGE, tiny.VIDEO
)  # fmt: skip
TOKENIZER = LetterTokenizer(SPECIAL)
CONFIG = parse_config(tiny.CONFIG | {"tie_word_embeddings": False}, GOLDENS)[0]


def frames(turn):
    rng = np.random.RandomState(500 + turn)
    return rng.randint(0, 256, (2 if turn else 6, 56, 84, 3)).astype(np.uint8)


@functools.cache
def params():
    """The goldens' weights, with their longer head row of the end-of-turn token."""
    flat = {}
    for e in weight_name_table(CONFIG):
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


SHORT = EvictionPolicy(turns=2, sink=3, window=4)


def engine_options(eviction=FULL, **changes):
    defaults = {
        "max_conversations": 4,
        "max_batch": 4,
        "pool_tokens": 4000,
        "max_new_tokens": LIMIT,
    }
    return EngineOptions(eviction=eviction, **(defaults | changes))


def engine(eviction=FULL, **changes):
    return Engine(model(), engine_options(eviction, **changes))


def frames_for(conversation, turn):
    """Frames number `turn`; six of them if they open the conversation."""
    turn_frames = frames(turn)
    is_opening = not conversation.pushed
    if is_opening and len(turn_frames) == 2:
        return np.concatenate([turn_frames] * 3)
    return turn_frames


def step_one(engine, conversation, turn):
    """Pushes frames number `turn` and returns the tokens that are generated for them."""
    conversation.push(frames_for(conversation, turn))
    ((who, result),) = engine.step()
    assert who is conversation
    return result.tokens


def run_all(engine):
    """Runs steps until nothing waits: [(conversation, result)]."""
    results = []
    while engine.waiting():
        results += engine.step()
    return results


def run_alone(turns, mode="mrope", eviction=FULL, start=0, **changes):
    """The tokens of each turn of the only conversation of an engine; its frames begin at `start`."""
    alone = engine(eviction)
    conversation = alone.open(QUERY, options(mode, **changes))
    return [step_one(alone, conversation, start + i) for i in range(turns)]


class CountingModel(StreamModel):
    """Counts the calls of the vision tower.

    Args:
        fail_at: Number of a call that runs out of memory.
    """

    def __init__(self, fail_at=None):
        super().__init__(CONFIG, params(), TOKENIZER)
        self.calls, self._fail_at = 0, fail_at

    def encode_frames(self, frames):
        self.calls += 1
        if self.calls - 1 == self._fail_at:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")
        return super().encode_frames(frames)


class BlindModel(StreamModel):
    """A model without a vision tower, for `FakeStore`."""

    def __init__(self):
        super().__init__(CONFIG, params(), TOKENIZER)

    def encode_frames(self, frames):
        return jnp.zeros((len(frames), 0, 0))


class FakeStore(PagedStore):
    """A paged store that leaves the network out; its bookkeeping is real.

    Args:
        model: The model.
        options: Capacity.
        generate: Returns the generated tokens, int32 [rows, M], of a step's rows.
    """

    def __init__(self, model, options, generate):
        super().__init__(model, options)
        self._generate = generate

    def run(self, rows, slots, batch, vision_features, meanwhile):
        meanwhile()
        return self._generate(rows)

    def check_slots(self, conversations):
        """A slot has as many references as conversations that use it, and is free without any."""
        (allocator,) = self._allocators
        in_use = collections.Counter(
            int(slot) for c in conversations for slot in c.context.history.slots()
        )
        counts = np.array([in_use[slot] for slot in range(allocator.total)])
        np.testing.assert_array_equal(allocator.reference_counts(), counts)
        free = allocator.allocate(allocator.free)
        assert sorted(free) == np.flatnonzero(counts == 0).tolist()
        allocator.release(free)


@functools.cache
def blind_model():
    return BlindModel()


def silence(rows):
    """A step in which every turn is silent."""
    return np.full((len(rows), LIMIT), -1)


def random_words(seed=0):
    """Steps in which each row says up to `LIMIT` random words."""
    rng = np.random.default_rng(seed)

    def generate(rows):
        tokens = np.full((len(rows), LIMIT), -1)
        for row in tokens:
            row[: rng.integers(0, LIMIT + 1)] = rng.integers(5, 20)
        return tokens

    return generate


def fake_engine(generate=silence, eviction=FULL, **changes):
    """An engine without a network, over a `FakeStore`."""
    capacity = engine_options(eviction, **changes)
    return Engine(blind_model(), capacity, store=FakeStore(blind_model(), capacity, generate))
