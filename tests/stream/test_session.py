"""Sessions against the training forward, transformers and the released system."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import build_row
from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import append, empty_cache
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.decoding.session_step import prefill, session_step
from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.ingest import TurnFrames
from livecc_jax.media.pixels import patchify
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.serving.commentary import comment
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.prompt import stack_prompts
from livecc_jax.stream.session import Session, contiguous_engine
from livecc_jax.stream.turn import ContextFull
from livecc_jax.timeline.chat import ChatTurn, Visual
from livecc_jax.timeline.turns import turn_label, turn_span
from tests.goldens import tiny_weights as tiny
from tests.support.streaming import (
    CONFIG,
    GOLDENS,
    QUERY,
    SPECIAL,
    TOKENIZER,
    CountingModel,
    frames,
    model,
    options,
    params,
)

GOLDEN = dict(np.load(GOLDENS / "stream.npz"))
TURNS = 7
ANSWERS = ["one two ...", " ...", "three ...", "four five six ...", " ...", "x ...", "seven ..."]


def conversation(answers):
    """The whole conversation as training has it: (encoded example, patches)."""
    chat = []
    for turn, answer in enumerate(answers):
        visual = Visual("video", (1 if turn else 3, 4, 6))
        asked = (turn_label(*turn_span(turn)), visual, *([] if turn else [QUERY]))
        chat += [ChatTurn("user", asked), ChatTurn("assistant", (answer,))]
    encoded = model().template.conversation(chat)
    everything = np.concatenate([frames(i) for i in range(len(answers))])
    patches, (t, h, w) = patchify(everything)
    media = MediaSlice("", np.zeros(0, np.int64), np.zeros(0, np.int64), h * 14, w * 14)
    return EncodedExample(encoded, (media,)), [patches.reshape(t, h * w, -1)]


@functools.cache
def packed_logits(mode, answers=tuple(ANSWERS)):
    """The training forward: (tokens [T], logits [T, V]) of the packed row."""
    example, patches = conversation(answers)
    shape = RowShape(tokens=512, windows=8, window=48, targets=256)
    row = build_row([(example, patches)], shape, SPECIAL, mode, "token")
    rows = {k: jnp.asarray(v)[None] for k, v in row.items()}
    logits = jax.jit(lambda p, r: bind(CONFIG, p)(r))(params(), rows)
    return example.encoded.tokens, np.asarray(logits[0, : example.tokens])


def streamed_logits(mode, model=model):
    """The decoder's logits where it chooses a token; the answers are forced, one token at a time."""
    settings = options(mode, max_new_tokens=64)
    conversation, length = contiguous_engine(model(), settings).open(QUERY, settings), 0
    network = bind(CONFIG, model().weights.other)
    cache = empty_cache(CONFIG, 1, 512, jnp.float32)
    head = jax.jit(lambda hidden: logits(network, model().weights, hidden))
    one = jax.jit(
        lambda token, cache, at, length: append(
            network, model().weights.layers, cache, network.embed(token, None, None), at, length
        )
    )
    read = jax.jit(lambda cache, length, turn: prefill(CONFIG, model().weights, cache, length, turn))
    out = []
    for turn, answer in enumerate(ANSWERS):
        conversation.push(frames(turn))
        queued = conversation.next_waiting()
        conversation.claim(queued)
        row = conversation.prepare(queued)
        vision_features = model().encode_frames((queued.frames,))
        prompt = stack_prompts([row.prompt])._replace(vision_features=vision_features)
        hidden, cache = read(cache, jnp.array([length]), prompt)
        out.append(head(hidden[0]))
        length, at = length + len(row.prompt), row.prompt.next_position
        tokens = TOKENIZER.encode(answer)
        for token in tokens:
            hidden, cache = one(
                jnp.array([[token]]), cache, jnp.full((1, 3, 1), at), jnp.array([length])
            )
            out.append(head(hidden[0, 0]))
            length, at = length + 1, at + 1
        conversation.finish(queued, row, np.array([*tokens, -1]), 0.0, 0.0)
        assert (conversation.length, conversation.context.next_position) == (length, at)
    return np.stack(out)


@pytest.mark.parametrize("mode", ["mrope", "sequential"])
def test_streamed_equals_trained_equals_transformers(mode):
    """The project's central equality: one timeline, three ways through it."""
    tokens, trained = packed_logits(mode)
    choices = GOLDEN["looked"]  # indices of the tokens before each choice
    np.testing.assert_array_equal(tokens[: len(GOLDEN["ids"])], GOLDEN["ids"])
    streamed = streamed_logits(mode)
    assert GOLDEN[mode].std() > 0.5
    np.testing.assert_allclose(trained[choices], GOLDEN[mode], rtol=0, atol=1e-4)
    np.testing.assert_allclose(streamed, GOLDEN[mode], rtol=0, atol=1e-4)
    np.testing.assert_allclose(streamed, trained[choices], rtol=0, atol=1e-4)
    other = GOLDEN["sequential" if mode == "mrope" else "mrope"]
    assert np.abs(other - GOLDEN[mode]).max() > 1e-2  # the modes can be told apart


def test_fp8_is_nearly_the_same():
    quantized = functools.cache(lambda: StreamModel(CONFIG, params(), TOKENIZER, "fp8"))
    kinds = {x.dtype.name for x in jax.tree.leaves(quantized().weights)}
    assert kinds == {"float32", "float8_e4m3fn", "int8"}
    difference = streamed_logits("mrope", quantized) - streamed_logits("mrope")
    # Each product has a relative error of 0.037 (uniform rounding to three bits, twice); the errors
    # add up as noise does.
    products = 4 * (CONFIG.text.layers + CONFIG.vision.depth)
    assert 1e-3 < difference.std() / GOLDEN["mrope"].std() < 0.037 * products**0.5


def test_hybrid_generates_what_the_released_system_does():
    """Turn by turn, with turns that end by themselves and turns that the limit truncates."""
    stream = Session(model(), options("hybrid"), QUERY)
    spoken = [stream.push(frames(i)) for i in range(TURNS)]
    expected = [[t for t in row if t >= 0] for row in GOLDEN["said"].tolist()]
    assert [list(s.tokens) for s in spoken] == expected
    assert {s.truncated for s in spoken} == {True, False}
    # The other modes keep the last token of a truncated turn, so they differ after the first.
    other = Session(model(), options("mrope"), QUERY)
    assert [list(other.push(frames(i)).tokens) for i in range(3)][2] != expected[2]


def test_prefetch_changes_nothing(caplog):
    """Frames that are known to follow are encoded once, before they are pushed; others are dropped."""
    turns = [frames(i) for i in range(TURNS)]
    plain = Session(model(), options("mrope"), QUERY)
    expected = [plain.push(turn).tokens for turn in turns]

    def run(counting):
        session = Session(counting, options("mrope"), QUERY)
        return [session.push(a, b).tokens for a, b in itertools.zip_longest(turns, turns[1:])]

    counting = CountingModel()
    assert run(counting) == expected
    assert counting.calls == TURNS
    session = Session(counting, options("mrope"), QUERY)
    others = [turns[2], turns[2][:1], None]  # another turn, too few frames for a turn, nothing
    assert [session.push(a, b).tokens for a, b in zip(turns, others)] == expected[:3]
    assert counting.calls == TURNS + 4
    # A prefetch that fails is logged, and repeated when its turn is taken.
    assert run(CountingModel(fail_at=1)) == expected
    assert "prefetch of the next frames failed: RESOURCE_EXHAUSTED" in caplog.text


@pytest.mark.parametrize("mode", ["mrope", "sequential"])
def test_greedy_words_are_the_training_forwards(mode):
    """A session's tokens are the argmax of the packed row that contains them, truncated turns too."""
    stream = Session(model(), options(mode, repetition_penalty=1.0), QUERY)
    spoken = [stream.push(frames(i)) for i in range(4)]
    assert any(s.truncated for s in spoken)
    example, patches = conversation(["?"] * 4)
    # Put the generated tokens in place of the answers.
    tokens, supervised, turn = [], [], 0
    for i in range(0, 2 * len(spoken) + 1):
        here = example.encoded.turns == i
        if i and i % 2 == 0:
            answer = [tiny.IM_START, *TOKENIZER.encode("assistant\n"), *spoken[turn].tokens]
            tokens += [*answer, tiny.IM_END, *TOKENIZER.encode("\n")]
            start = len(tokens) - len(spoken[turn].tokens) - 2
            supervised += range(start, len(tokens) - 1 - bool(spoken[turn].truncated))
            turn += 1
        else:
            tokens += example.encoded.tokens[here].tolist()
    flags = np.zeros(len(tokens), bool)
    flags[supervised] = True
    encoded = dataclasses.replace(example.encoded, tokens=np.array(tokens, np.int32), supervised=flags)
    shape = RowShape(tokens=512, windows=8, window=48, targets=256)
    row = build_row(
        [(dataclasses.replace(example, encoded=encoded), patches)], shape, SPECIAL, mode, "token"
    )
    rows = {k: jnp.asarray(v)[None] for k, v in row.items()}
    logits = np.asarray(jax.jit(lambda p, r: bind(CONFIG, p)(r))(params(), rows)[0])
    slots = row["target_slots"][row["target_weights"] > 0]
    best = logits[slots].argmax(-1)
    # The end of a turn may be either of two ids.
    best = np.where(best == tiny.END, tiny.IM_END, best)
    np.testing.assert_array_equal(best, encoded.tokens[slots + 1])


def test_many_turns_compile_a_handful_of_programs():
    """Prompts are bucketed and the cache doubles: programs grow with the logarithm of the length."""
    before = session_step._cache_size()
    stream = Session(model(), options("mrope", context=8192, reserve=256), QUERY)
    for i in range(30):
        stream.push(frames(min(i, 1)))
    assert stream.length > 1024
    # 4 capacities (256 ... 2048) in the ordinary bucket, and the opening's two buckets at most.
    assert session_step._cache_size() - before <= 6
    assert stream.length == int(stream.conversation.context.state.length[0])


def test_a_warm_up_changes_nothing():
    """It compiles what the first turns run, also in the middle of a stream."""
    plain, warm = (Session(model(), options("mrope"), QUERY) for _ in range(2))
    warm.warm_up(frames(0).shape[1:3])
    programs = session_step._cache_size()
    for i in range(3):
        assert warm.push(frames(i)).tokens == plain.push(frames(i)).tokens
    warm.warm_up(frames(0).shape[1:3])
    assert warm.push(frames(3)).tokens == plain.push(frames(3)).tokens
    assert warm.length == plain.length
    assert session_step._cache_size() == programs


def test_a_full_context_ends_cleanly():
    stream, spoken = Session(model(), options("mrope", context=300), QUERY), []
    spoken += [stream.push(frames(i)) for i in range(5)]
    context = stream.conversation.context
    length, seen_ids = stream.length, np.asarray(context.state.seen_ids)
    with pytest.raises(ContextFull, match="300 tokens is full after 7 s of video and 5 turns"):
        stream.push(frames(5))
    assert (stream.turns, stream.length) == (5, length)
    assert length <= 300
    np.testing.assert_array_equal(seen_ids, context.state.seen_ids)
    # Commentary ends there, and the sinks have all turns and are closed.
    sink = Recorder()
    fresh = Session(model(), options("mrope", context=300), QUERY)
    again = comment(fresh, map(TurnFrames, map(frames, range(9))), [sink])
    assert [s.tokens for s in again] == [s.tokens for s in spoken] == [s.tokens for s in sink.turns]
    assert sink.closed


class Recorder:
    """A sink that records its turns."""

    def __init__(self):
        self.turns, self.closed = [], False

    def write(self, turn):
        assert not self.closed
        self.turns.append(turn)

    def close(self):
        self.closed = True


def test_sampling_repeats_with_its_seed():
    def run(seed, temperature=1.0):
        stream = Session(model(), options("mrope", temperature=temperature, seed=seed), QUERY)
        return [stream.push(frames(i)).tokens for i in range(2)]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(1) != run(1, temperature=0.0)


def test_silence_control_bans_hasty_silence():
    """With a ban at probability 1 the silence token never comes, whatever its score."""
    favoured = jax.tree.map(lambda x: x, params())
    head = favoured["text"]["head"]
    favoured["text"]["head"] = head.at[:, TOKENIZER.silence_id].set(head[:, tiny.IM_END] * 1.5)
    eager = StreamModel(CONFIG, favoured, TOKENIZER)

    def run(**control):
        stream = Session(eager, options("mrope", repetition_penalty=1.0, **control), QUERY)
        return [t for i in range(TURNS) for t in stream.push(frames(i)).tokens]

    assert TOKENIZER.silence_id in run()
    assert TOKENIZER.silence_id not in run(silence_base=1.0)
    assert run(silence_base=0.0) == run()


def test_wrong_frames_and_options_are_refused():
    stream = Session(model(), options("mrope"), QUERY)
    with pytest.raises(MediaError, match="even number of frames, not 3"):
        stream.push(frames(0)[:3])
    stream.push(frames(0))
    with pytest.raises(MediaError, match="changed size"):
        stream.push(np.zeros((2, 28, 28, 3), np.uint8))
    for bad in (
        {"positions": "x"},
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"repetition_penalty": 0},
    ):
        with pytest.raises(ConfigError, match=str(next(iter(bad.values())))):
            StreamOptions(**bad)
