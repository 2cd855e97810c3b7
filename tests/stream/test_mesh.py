"""Streams over several devices say what they say on one."""

import functools

import jax
import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.parallel.mesh import make_mesh, parse_mesh
from livecc_jax.stream.engine import Engine, EngineOptions
from livecc_jax.stream.rolling import RollingSession
from livecc_jax.stream.session import Session, StreamModel
from tests.support.streaming import (
    CONFIG,
    LIMIT,
    QUERY,
    SHORT,
    TOKENIZER,
    frames,
    model,
    options,
    params,
    picture,
)


@functools.cache
def spread(sizes, precision="weights"):
    mesh = make_mesh(parse_mesh(sizes))
    return StreamModel(CONFIG, params(), TOKENIZER, precision, mesh)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        (Session, "weights"),
        (Session, "fp8"),
        (functools.partial(RollingSession, retention=SHORT), "weights"),
    ],
)
def test_one_stream_over_devices(kind, precision):
    """Weights, keys and values by heads."""

    def told(model):
        stream = kind(model, options("mrope"), QUERY)
        return [stream.push(frames(i)).tokens for i in range(4)], stream

    said, stream = told(spread("tensor=2", precision))
    one = model() if precision == "weights" else StreamModel(CONFIG, params(), TOKENIZER, precision)
    assert said == told(one)[0]
    assert len({*said}) > 2
    held = stream._cache if kind is Session else stream._engine._pool
    weights = stream_model(stream).weights
    split = [weights.layers[0][name].get("rows") for name in ("qkv", "gate_up", "down")]
    if precision == "fp8":
        blocks = weights.layers + weights.blocks
        split = [x for block in blocks for x in jax.tree.leaves(block) if x.dtype.itemsize == 1]
        split.append(weights.head["rows8"])
        assert len(split) == 4 * len(blocks) + 1
    for x in (held[0][0], *split):
        assert x.addressable_shards[0].data.size == x.size // 2


def stream_model(stream):
    return getattr(stream, "model", None) or stream._model


def test_an_engines_streams_over_groups_of_devices():
    """They come and go, fork and ask; a group's devices hold its own streams' keys and values alone."""

    def told(made):
        streams, said = [], {}
        for tick in range(5):
            if tick < 3:
                streams.append(made.open(QUERY, options(("mrope", "hybrid", "sequential")[tick])))
            if tick == 3:
                streams.append(streams[1].fork())
                streams[0].ask("d")
            for i, stream in enumerate(streams):
                if (tick + i) % 4:
                    stream.push(picture(stream, tick + i))
            while made.waiting():
                for who, turn in made.tick():
                    said.setdefault(streams.index(who), []).append(turn.tokens)
        streams.pop(0).close()
        assert made.free < made.options.pool
        for stream in streams:
            stream.close()
        assert made.free == made.options.pool
        return said

    # One room and one number of rows, so that there are few programs.
    settings = EngineOptions(4, 2, 4000, SHORT, LIMIT, max_answer=4, room=512)
    over = Engine(spread("data=2,tensor=2"), settings)
    found = told(over)
    assert found == told(Engine(model(), settings))
    assert max(map(len, found.values())) > 3
    keys = over._pool[0][0]
    assert keys.addressable_shards[0].data.shape == (2000, 1, CONFIG.text.head_dim)
    kernel = over.model.weights.layers[0]["qkv"]["rows"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2


def test_what_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"mesh.tensor alone"):
        Session(spread("data=2,tensor=2"), options("mrope"))
    with pytest.raises(ConfigError, match="batch of 3 does not divide over the 2 groups"):
        Engine(spread("data=2,tensor=2"), EngineOptions(batch=3, pool=4000))
    for sizes, sentence in (("context=2", "must be 1"), ("tensor=8", "does not divide")):
        with pytest.raises(ConfigError, match=sentence):
            spread(sizes)
