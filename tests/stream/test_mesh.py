"""Streams over several devices get what they get on one."""

import functools

import jax
import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.parallel.mesh import make_mesh, parse_mesh
from livecc_jax.stream.engine import Engine
from livecc_jax.stream.history import FULL
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.session import Session
from tests.support.streaming import (
    CONFIG,
    LIMIT,
    QUERY,
    SHORT,
    TOKENIZER,
    frames,
    frames_for,
    model,
    options,
    params,
    run_all,
)


@functools.cache
def sharded_model(sizes, precision="weights"):
    mesh = make_mesh(parse_mesh(sizes))
    return StreamModel(CONFIG, params(), TOKENIZER, precision, mesh)


@pytest.mark.parametrize(
    ("policy", "precision"), [(FULL, "weights"), (FULL, "fp8"), (SHORT, "weights")]
)
def test_one_stream_over_devices(policy, precision):
    """Weights, keys and values are split by heads."""

    def run(model):
        session = Session(model, options("mrope"), QUERY, eviction=policy)
        return [session.push(frames(i)).tokens for i in range(4)], session

    sharded = sharded_model("tensor=2", precision)
    generated, session = run(sharded)
    one = model() if precision == "weights" else StreamModel(CONFIG, params(), TOKENIZER, precision)
    assert generated == run(one)[0]
    assert len({*generated}) > 2
    keys = (session.conversation.context.cache if policy is FULL else session.engine.store.pool)[0][0]
    weights = sharded.weights
    split = [weights.layers[0][name].get("kernel_t") for name in ("qkv", "gate_up", "down")]
    if precision == "fp8":
        blocks = weights.layers + weights.vision_blocks
        split = [x for block in blocks for x in jax.tree.leaves(block) if x.dtype.itemsize == 1]
        split.append(weights.quantized_head["kernel_int8"])
        assert len(split) == 4 * len(blocks) + 1
    for x in (keys, *split):
        assert x.addressable_shards[0].data.size == x.size // 2


def test_an_engines_streams_over_device_groups():
    """They come and go, fork and ask; a group's devices hold the keys and values of its own streams."""

    def run(shared):
        streams, generated = [], {}
        for step in range(5):
            if step < 3:
                mode = ("mrope", "hybrid", "sequential")[step]
                streams.append(shared.open(QUERY, options(mode)))
            if step == 3:
                streams.append(shared.fork(streams[1]))
                streams[0].ask("d")
            for i, stream in enumerate(streams):
                if (step + i) % 4:
                    stream.push(frames_for(stream, step + i))
            for who, turn in run_all(shared):
                generated.setdefault(streams.index(who), []).append(turn.tokens)
        shared.close(streams.pop(0))
        assert shared.free < shared.options.pool_tokens
        for stream in streams:
            shared.close(stream)
        assert shared.free == shared.options.pool_tokens
        return generated

    # One context size and one number of rows, so that there are few programs.
    capacity = EngineOptions(
        max_conversations=4, max_batch=2, pool_tokens=4000, eviction=SHORT, max_new_tokens=LIMIT,
        max_answer_tokens=4, context_size=512,
    )  # fmt: skip
    sharded = Engine(sharded_model("data=2,tensor=2"), capacity)
    generated = run(sharded)
    assert generated == run(Engine(model(), capacity))
    assert max(map(len, generated.values())) > 3
    keys = sharded.store.pool[0][0]
    assert keys.addressable_shards[0].data.shape == (2000, 1, CONFIG.text.head_dim)
    kernel = sharded.model.weights.layers[0]["qkv"]["kernel_t"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2


def test_what_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"mesh.tensor alone"):
        Session(sharded_model("data=2,tensor=2"), options("mrope"))
    with pytest.raises(ConfigError, match="batch of 3 does not divide over the 2 groups"):
        Engine(sharded_model("data=2,tensor=2"), EngineOptions(max_batch=3, pool_tokens=4000))
    for sizes, message in (("context=2", "must be 1"), ("tensor=8", "does not divide")):
        with pytest.raises(ConfigError, match=message):
            sharded_model(sizes)
