"""Whole sessions: real clips as training has them, the released system's numbers, neighbours."""

import dataclasses
import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.experimental import io_callback

from livecc_jax.checkpoints.hf_config import parse_config
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.encode import EncodedExample, encode_example
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import build_row
from livecc_jax.decoding.generate import SamplingParams
from livecc_jax.decoding.kv_cache import empty_cache
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.decoding.sampling import best, choosing
from livecc_jax.decoding.session_step import SlotState, TurnInput, session_step
from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.ingest import read_turns
from livecc_jax.media.pixels import patchify
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.model.qwen2_vl import abstract_params, bind
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.prompt import make_prompt, stack_prompts
from livecc_jax.stream.session import Session
from livecc_jax.stream.turn import ContextFull
from livecc_jax.text.sentencepiece import SentencePieceTokenizer
from livecc_jax.text.tokenizer import SILENCE, SpecialTokens
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual
from livecc_jax.timeline.position_modes import POSITION_MODES
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import turn_label, turn_span
from tests.goldens import tiny_weights as tiny
from tests.goldens.letters import LetterTokenizer

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests/goldens"
TOLERANCE = 1e-4  # float32, logits of a few units
GOLDEN = dict(np.load(GOLDENS / "released.npz"))
QUERY = "go on"
SPECIAL = SpecialTokens(
    tiny.END, tiny.IM_START, tiny.IM_END, tiny.VISION_START, tiny.VISION_END, tiny.IMAGE, tiny.VIDEO
)  # fmt: skip
LETTERS = LetterTokenizer(SPECIAL)
CONFIG = parse_config(tiny.CONFIG | {"tie_word_embeddings": False}, GOLDENS)[0]


@functools.cache
def letters_model(end=3.0, silence=1.0):
    """The goldens' weights, with longer head rows for the end of a turn and for silence."""
    flat = {}
    for e in weight_name_table(CONFIG):
        layers = []
        for name in e.names:
            value = tiny.weight(name, e.hf_shape)
            if name == "lm_head.weight":
                value[tiny.IM_END] *= end
                value[LETTERS.silence_id] *= silence
            layers.append(jnp.asarray(e.from_hf(value)))
        flat[e.path] = jnp.stack(layers) if e.stacked else layers[0]
    return StreamModel(CONFIG, traverse_util.unflatten_dict(flat, sep="/"), LETTERS), flat


@functools.cache
def photo():
    import cv2

    return cv2.imread(str(ROOT / "data/clips/frame.png"))[..., ::-1]


def panned(turn):
    """uint8 [F, 56, 84, 3], as in make_released.py: a window that moves over a photo."""
    steps = range(6) if turn == 0 else range(4 + 2 * turn, 6 + 2 * turn)
    return np.stack([photo()[4 * i : 4 * i + 56, 12 * i : 12 * i + 84] for i in steps])


class Choices:
    """Records the scores [V] by which each token was chosen, in order, or forces other tokens."""

    def __init__(self):
        self.start()

    def start(self, script=None):
        """Starts a new record; script: an iterator of the ids to choose instead."""
        self.scores, self._script = [], script

    def record(self, values, chosen):
        self.scores.append(np.array(values[0]))
        return np.asarray(chosen) if self._script is None else np.array([next(self._script)], np.int32)


@pytest.fixture(scope="module", autouse=True)
def choices():
    """Compiles every turn of this file with a callback that records its choices."""
    recorder = Choices()

    def choose(values):
        chosen = best(values)
        kind = jax.ShapeDtypeStruct(chosen.shape, chosen.dtype)
        return io_callback(recorder.record, kind, values, chosen, ordered=True)

    with choosing(choose):
        yield recorder


def with_answers(encoded, answers):
    """The conversation with other answers, ids a turn: (encoded, slot before each answer)."""
    tokens, supervised, numbers, before = [], [], [], []
    for turn in range(encoded.turns.max() + 1):
        here = np.flatnonzero(encoded.turns == turn)
        targets = here[encoded.supervised[here]]
        old, flags = encoded.tokens[here], encoded.supervised[here]
        if len(targets):
            # All targets but the last, which is the end of the turn, are the answer.
            head, tail = targets[0] - here[0], targets[-1] - here[0]
            before.append(len(tokens) + head - 1)
            answer = answers[len(before) - 1]
            old = np.concatenate([old[:head], np.array(answer, np.int32), old[tail:]])
            flags = np.concatenate([flags[:head], np.ones(len(answer), bool), flags[tail:]])
        tokens += old.tolist()
        supervised += flags.tolist()
        numbers += [turn] * len(old)
    assert len(before) == len(answers)
    changed = dataclasses.replace(
        encoded,
        tokens=np.array(tokens, np.int32),
        supervised=np.array(supervised),
        turns=np.array(numbers, np.int32),
    )
    return changed, before


def trained_logits(config, params, example, patches, special, mode):
    """float32 [T, V] of the training forward over the packed row."""
    each = example.media[0].patches_per_pair
    shape = RowShape(
        -(-example.tokens // 256) * 256, example.windows(2 * each), 2 * each, example.targets
    )
    shape = dataclasses.replace(shape, patch=config.vision.patch_size)
    row = build_row([(example, patches)], shape, special, mode, "token", config.family)
    rows = {k: jnp.asarray(v)[None] for k, v in row.items()}
    return np.asarray(forward(config)(params, rows)[0, : example.tokens])


@functools.cache
def forward(config):
    return jax.jit(lambda params, rows: bind(config, params)(rows))


def check_bookkeeping(session, tokens, grids):
    """A session's counters are those of the whole conversation encoded at once.

    tokens: All tokens up to and including the last one that was shown.
    """
    in_cache = tokens[: len(tokens) - len(session.conversation.pending)]
    special = session.model.tokenizer.special
    mode, family = session.options.positions, session.model.config.family
    _, position = token_positions(in_cache, grids, special, mode, family=family)
    state = session.conversation.context.state
    assert session.length == int(state.length[0]) == len(in_cache)
    assert session.next_position == position
    np.testing.assert_array_equal(np.flatnonzero(state.seen_ids[0]), np.unique(in_cache))


def narration_model(tokenizer, name="tiny"):
    """A small random model over this tokenizer, its weights large enough to have opinions."""
    config = fit_vocabulary(preset(name), tokenizer)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        norm = path[-1].key == "scale" or path[-1].key.endswith("norm")
        return jnp.asarray(1 + 0.1 * noise if norm else 0.08 * noise)

    return config, jax.tree_util.tree_map_with_path(fill, abstract_params(config))


@pytest.mark.parametrize("name", ["tiny", "qwen2.5-tiny", "qwen3-tiny"])
def test_a_clip_streams_as_it_trains(small_tokenizer, choices, name):
    """From the file on: what a session computes is what training computes of the annotated clip.

    The answers are forced on the session; those longer than its limit are truncated, and what stays
    of them is what the row holds. The cache doubles on the way.
    """
    tokenizer = SentencePieceTokenizer(small_tokenizer / "tokenizer.model")
    config, params = narration_model(tokenizer, name)
    limit, budget = 12, PixelBudget.parse(12, config.vision.patch_size)
    model = StreamModel(config, params, tokenizer)
    example = AnnotationFile(ROOT / "data/annotations/narration.jsonl")[0]
    clip = dataclasses.replace(example.clip, end_us=10_600_000)  # an even number of frames
    example = dataclasses.replace(example, clip=clip)
    annotated = encode_example(example, ChatTemplate(tokenizer, config.family), budget)
    patches = [m.load_patches() for m in annotated.media]
    answers = [tokenizer.encode(turn.answer) for turn in annotated.turns]
    truncated = [len(answer) >= limit for answer in answers]
    script = [[*answer, tokenizer.special.im_end][:limit] for answer in answers]
    assert len(answers) > 5
    assert {*truncated} == {True, False}
    assert tokenizer.encode(SILENCE) in answers

    def check(mode):
        options = StreamOptions(mode, max_new_tokens=limit, repetition_penalty=1.0, reserve=256)
        stream = Session(model, options, annotated.prompt)
        choices.start(itertools.chain(*script))
        source = read_turns(clip.path, budget, 0.0, clip.end_us / 1e6)
        spoken = [stream.push(turn.frames) for turn, _ in zip(source, answers)]
        assert [list(s.tokens) for s in spoken] == [answer[:limit] for answer in answers]
        assert [s.truncated for s in spoken] == truncated

        # The released system drops the last token of a truncated turn, and so does `hybrid`.
        shown = limit - 1 if mode == "hybrid" else limit
        encoded, before = with_answers(annotated.encoded, [answer[:shown] for answer in answers])
        changed = dataclasses.replace(annotated, encoded=encoded)
        trained = trained_logits(config, params, changed, patches, tokenizer.special, mode)
        choice_indices = np.concatenate([b + np.arange(len(ids)) for b, ids in zip(before, script)])
        expected = trained[choice_indices]
        np.testing.assert_allclose(np.stack(choices.scores), expected, rtol=0, atol=TOLERANCE)
        end = before[-1] + 1 + len(answers[-1][:shown])
        check_bookkeeping(stream, encoded.tokens[:end], encoded.grids)
        assert stream.conversation.context.cache[0][0].shape[1] > 256
        return expected

    # `hybrid` is the released Qwen2-VL demo, and `sequential` places no family's tokens differently.
    modes = POSITION_MODES if name == "tiny" else ("mrope",)
    computed = [check(mode) for mode in modes]
    choices.start()
    assert computed[0].std() > 0.3
    for one, other in itertools.combinations(computed, 2):
        assert np.abs(one - other).max() > 100 * TOLERANCE  # the modes can be told apart


def test_hybrid_scores_are_the_released_systems(choices):
    """Every score of every choice, with repetition penalty, in turns truncated at 16 tokens or not."""
    expected_tokens = [[t for t in row if t >= 0] for row in GOLDEN["said"].tolist()]
    model, _ = letters_model()
    choices.start()
    stream = Session(model, StreamOptions("hybrid", context=2048), QUERY)
    spoken = [stream.push(panned(i)) for i in range(len(expected_tokens))]
    expected = GOLDEN["scores"][~np.isnan(GOLDEN["scores"][..., 0])]
    assert [list(s.tokens) for s in spoken] == expected_tokens
    assert [s.truncated for s in spoken] == [len(tokens) == 16 for tokens in expected_tokens]
    assert any(0 < len(tokens) < 16 for tokens in expected_tokens)
    assert any(s.truncated for s in spoken)
    np.testing.assert_allclose(np.stack(choices.scores), expected, rtol=0, atol=TOLERANCE)


def slow_choice(logits, context_ids, n, options, silence):
    """The released decoder's rule, a token at a time."""
    scores = logits.astype(np.float64)
    for i in context_ids:
        factor = options.repetition_penalty
        scores[i] = scores[i] / factor if scores[i] > 0 else scores[i] * factor
    if options.silence_base is not None:
        odds = np.exp(scores - scores.max())
        if odds[silence] / odds.sum() <= options.silence_base + options.silence_step * n:
            scores[silence] = -np.inf
    return int(scores.argmax())


@pytest.mark.parametrize(("base", "rise"), [(0.2, 0.02), (0.6, -0.05)])
def test_a_session_chooses_by_its_definition(base, rise):
    """Greedy words with penalty and silence control, against the packed row's logits and slow rules."""
    model, flat = letters_model(end=5.0, silence=3.0)
    params = traverse_util.unflatten_dict(flat, sep="/")
    options = StreamOptions("mrope", repetition_penalty=1.2, silence_base=base, silence_step=rise)
    stream = Session(model, options, QUERY)
    spoken = [stream.push(panned(i)) for i in range(8)]
    chat = []
    for i in range(8):
        visual = Visual("video", (1 if i else 3, 4, 6))
        asked = (turn_label(*turn_span(i)), visual, *([] if i else [QUERY]))
        chat += [ChatTurn("user", asked), ChatTurn("assistant", ("?",))]
    encoded, before = with_answers(model.template.conversation(chat), [s.tokens for s in spoken])
    patches, (t, h, w) = patchify(np.concatenate([panned(i) for i in range(8)]))
    media = MediaSlice("", np.zeros(0, np.int64), np.zeros(0, np.int64), h * 14, w * 14)
    chat_example = EncodedExample(encoded, (media,))
    # An example without a file counts as an image of one pair: the windows are given by hand.
    shape = RowShape(1024, t, h * w, chat_example.targets)
    row = build_row([(chat_example, [patches.reshape(t, h * w, -1)])], shape, SPECIAL, "mrope", "token")
    rows = {k: jnp.asarray(v)[None] for k, v in row.items()}
    logits = np.asarray(forward(CONFIG)(params, rows)[0])

    plain = dataclasses.replace(options, silence_base=None)
    unpenalised = dataclasses.replace(options, repetition_penalty=1.0)
    differs = {"silence": 0, "penalty": 0, "count": 0}
    for start, turn in zip(before, spoken):
        for n in range(len(turn.tokens) + (not turn.truncated)):
            ids = set(encoded.tokens[: start + n + 1].tolist())
            choice = slow_choice(logits[start + n], ids, n, options, LETTERS.silence_id)
            if n == len(turn.tokens):
                assert choice in (tiny.IM_END, tiny.END)
            else:
                assert choice == turn.tokens[n]
            differs["silence"] += choice != slow_choice(logits[start + n], ids, n, plain, 99)
            later = slow_choice(logits[start + n], ids, n + 1, options, LETTERS.silence_id)
            differs["count"] += n > 0 and choice != later
            differs["penalty"] += choice != slow_choice(logits[start + n], ids, n, unpenalised, 99)
    # Both rules mattered, and when; silence was not simply forbidden.
    assert min(differs.values()) > 0, differs
    assert LETTERS.silence_id in [t for turn in spoken for t in turn.tokens]
    assert {turn.truncated for turn in spoken} == {True, False}


def test_a_row_is_the_same_whatever_its_neighbours_are():
    """Three conversations in one batch get, sampled, what each gets alone, turn after turn."""
    limit = 16  # as in the other tests, so that they share compiled turns
    model, _ = letters_model(end=5.0, silence=3.0)
    vocab = CONFIG.text.vocab_size

    def run_batch(members, count=5):
        """What each of the members, (seed, temperature), gets, and how long its context is then."""
        starts, pending = [0] * len(members), [[] for _ in members]
        cache = empty_cache(CONFIG, len(members), 2048, jnp.float32)
        state = SlotState(jnp.zeros(len(members), jnp.int32), jnp.zeros((len(members), vocab), bool))
        temperature = jnp.array([temperature for _, temperature in members])
        zeros = 0 * temperature
        params = SamplingParams(temperature, 1.05 + zeros, zeros - 1, zeros, None)
        generated = []
        for turn in range(count):
            inputs = []
            for row, (seed, _) in enumerate(members):
                shown = panned(turn + 1) // seed
                prompt = make_prompt(  # of later turns only, to compile fewer programs
                    model.template, shown, turn_span(turn + 1), "", first=False,
                    positions="mrope", start=starts[row], pending=pending[row],
                )  # fmt: skip
                features = model.encode_frames((shown,))
                inputs.append(stack_prompts([prompt])._replace(vision_features=features))
            joined = TurnInput(*(jnp.concatenate(parts) for parts in zip(*inputs)))
            seeds = jnp.array([(seed, turn) for seed, _ in members], jnp.uint32)
            tokens, cache, state = session_step(
                CONFIG, model.stop, limit, model.weights, cache, state, joined,
                params._replace(seeds=seeds),
            )  # fmt: skip
            generated.append(tokens.tolist())
            for row, own in enumerate(np.asarray(tokens)):
                truncated = bool(own[-1] >= 0)
                in_cache = int((own >= 0).sum()) - truncated
                starts[row] = int(inputs[row].next_position[0]) + in_cache
                pending[row] = [int(own[-1])] if truncated else []
        return list(zip(zip(*generated), state.length.tolist()))

    members = [(1, 1.0), (2, 1.0), (3, 0.0)]
    alone = [run_batch([m])[0] for m in members]
    assert list(run_batch(members)) == alone
    # They differ, and end at different times, so a neighbour has something to disturb.
    lengths = [[sum(t >= 0 for t in turn) for turn in tokens] for tokens, _ in alone]
    assert len({tuple(x) for x in lengths}) > 1, lengths


def test_a_full_context_leaves_a_session_as_it_was():
    """Even before its first turn: smaller frames may still fit."""
    model, _ = letters_model()
    stream = Session(model, StreamOptions("mrope", context=180), QUERY)
    large = np.zeros((6, 280, 280, 3), np.uint8)
    with pytest.raises(ContextFull, match="after 0 s of video and 0 turns"):
        stream.push(large)
    assert (stream.turns, stream.length, stream.next_position) == (0, 0, 0)
    assert stream.push(panned(0)).start == 0
    with pytest.raises(MediaError, match="changed size"):
        stream.push(large)
