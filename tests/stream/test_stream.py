"""Sessions as a whole: real clips as training has them, the released system's numbers, neighbours."""

import dataclasses
import functools
import html
import itertools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import io_callback

from livecc_jax.checkpoints.hf_config import from_dict
from livecc_jax.checkpoints.names import table
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.example import ExamplePlan, MediaPlan, plan_example
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import build_row
from livecc_jax.decoding import generate
from livecc_jax.decoding.generate import Controls
from livecc_jax.decoding.kv_cache import empty_cache
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.decoding.session_step import SlotState, TurnInput, run_turn
from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.ingest import Turn, turns
from livecc_jax.media.pixels import patchify
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import abstract_params, bind
from livecc_jax.model.vocabulary import fit_vocabulary
from livecc_jax.serving.commentary import comment
from livecc_jax.serving.sinks import JsonLines, Srt, WebVtt
from livecc_jax.stream.session import ContextFull, Session, SpokenTurn, StreamModel
from livecc_jax.text.sentencepiece import SentencePieceTokenizer
from livecc_jax.text.tokenizer import SILENCE, SpecialTokens
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual
from livecc_jax.timeline.modes import MODES
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import turn_label, turn_span
from tests.goldens import tiny_weights as tiny
from tests.goldens.letters import Letters

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests/goldens"


TOLERANCE = 1e-4  # float32, logits of a few units
GOLDEN = dict(np.load(GOLDENS / "released.npz"))
QUERY = "go on"
SPECIAL = SpecialTokens(
    tiny.END, tiny.IM_START, tiny.IM_END, tiny.VISION_START, tiny.VISION_END, tiny.IMAGE, tiny.VIDEO
)  # fmt: skip
LETTERS = Letters(SPECIAL)
CONFIG = from_dict(tiny.CONFIG | {"tie_word_embeddings": False}, GOLDENS)[0]


@functools.cache
def letters_model(end=3.0, silence=1.0):
    """The goldens' weights, with longer head rows for the end of a turn and for silence."""
    flat = {}
    for e in table(CONFIG):
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
def picture():
    import cv2

    return cv2.imread(str(ROOT / "data/clips/frame.png"))[..., ::-1]


def panned(turn):
    """uint8 [F, 56, 84, 3], as in make_released.py: a window that moves over the picture."""
    places = range(6) if turn == 0 else range(4 + 2 * turn, 6 + 2 * turn)
    return np.stack([picture()[4 * i : 4 * i + 56, 12 * i : 12 * i + 84] for i in places])


class Choices:
    """The scores [V] that each token was chosen by, in order; told to, it chooses other tokens."""

    def __init__(self):
        self.watch()

    def watch(self, script=None):
        """Start afresh; script: an iterator of the ids to choose instead."""
        self.scores, self._script = [], script

    def look(self, values, chosen):
        self.scores.append(np.array(values[0]))
        return np.asarray(chosen) if self._script is None else np.array([next(self._script)], np.int32)


@pytest.fixture(scope="module", autouse=True)
def choices():
    """Every turn of this file is compiled with a look at its choices."""
    watched, original = Choices(), generate.greedy

    def greedy(values):
        chosen = original(values)
        kind = jax.ShapeDtypeStruct(chosen.shape, chosen.dtype)
        return io_callback(watched.look, kind, values, chosen, ordered=True)

    run_turn.clear_cache()  # turns compiled before do not look, and these must not outlive the file
    generate.greedy = greedy
    yield watched
    generate.greedy = original
    run_turn.clear_cache()


def with_answers(encoded, said):
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
            answer = said[len(before) - 1]
            old = np.concatenate([old[:head], np.array(answer, np.int32), old[tail:]])
            flags = np.concatenate([flags[:head], np.ones(len(answer), bool), flags[tail:]])
        tokens += old.tolist()
        supervised += flags.tolist()
        numbers += [turn] * len(old)
    assert len(before) == len(said)
    changed = dataclasses.replace(
        encoded,
        tokens=np.array(tokens, np.int32),
        supervised=np.array(supervised),
        turns=np.array(numbers, np.int32),
    )
    return changed, before


def trained_logits(config, params, plan, patches, special, mode):
    """float32 [T, V] of the training forward over the packed row."""
    each = plan.media[0].patches_per_pair
    shape = RowShape(-(-plan.tokens // 256) * 256, plan.windows(2 * each), 2 * each, plan.targets)
    row = build_row([(plan, patches)], shape, special, mode, "token")
    rows = {k: jnp.asarray(v)[None] for k, v in row.items()}
    return np.asarray(forward(config)(params, rows)[0, : plan.tokens])


@functools.cache
def forward(config):
    return jax.jit(lambda params, rows: bind(config, params)(rows))


def check_bookkeeping(stream, tokens, grids, unkept):
    """A session's counters are those of the whole conversation encoded at once.

    tokens: up to and including the last one shown; unkept: how many of them are not in the cache yet.
    """
    kept = tokens[: len(tokens) - unkept]
    special = stream.model.tokenizer.special
    _, position = token_positions(kept, grids, special, stream.options.positions)
    assert stream.length == int(stream._state.length[0]) == len(kept)
    assert stream.next_position == position
    np.testing.assert_array_equal(np.flatnonzero(stream._state.seen[0]), np.unique(kept))


def narrated(tokenizer):
    """A small random model over this tokenizer, its weights large enough to have opinions."""
    config = fit_vocabulary(preset("tiny"), tokenizer)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        norm = path[-1].key == "scale" or path[-1].key.endswith("norm")
        return jnp.asarray(1 + 0.1 * noise if norm else 0.08 * noise)

    return config, jax.tree_util.tree_map_with_path(fill, abstract_params(config))


def test_a_clip_streams_as_it_trains(small_tokenizer, choices):
    """From the file on: what a session computes is what training computes of the annotated clip.

    The answers are forced on the session; those longer than its limit are cut, and what it keeps of
    them is what the row holds. The cache doubles on the way.
    """
    limit, budget = 12, PixelBudget.parse(12)
    tokenizer = SentencePieceTokenizer(small_tokenizer / "tokenizer.model")
    config, params = narrated(tokenizer)
    model = StreamModel(config, params, tokenizer)
    example = AnnotationFile(ROOT / "data/annotations/narration.jsonl")[0]
    clip = dataclasses.replace(example.clip, end_us=10_600_000)  # an even number of frames
    example = dataclasses.replace(example, clip=clip)
    annotated = plan_example(example, ChatTemplate(tokenizer), budget)
    patches = [m.load() for m in annotated.media]
    answers = [tokenizer.encode(turn.answer) for turn in annotated.turns]
    cut = [len(answer) >= limit for answer in answers]
    script = [[*answer, tokenizer.special.im_end][:limit] for answer in answers]
    assert len(answers) > 5
    assert {*cut} == {True, False}
    assert tokenizer.encode(SILENCE) in answers

    def check(mode):
        options = StreamOptions(mode, max_new_tokens=limit, repetition_penalty=1.0, reserve=256)
        stream = Session(model, options, annotated.prompt)
        choices.watch(itertools.chain(*script))
        source = turns(clip.path, budget, 0.0, clip.end_us / 1e6)
        spoken = [stream.push(turn.frames) for turn, _ in zip(source, answers)]
        assert [list(s.tokens) for s in spoken] == [answer[:limit] for answer in answers]
        assert [s.cut for s in spoken] == cut

        # The released system forgets the last token of a turn cut short; `hybrid` does as it does.
        most = limit - 1 if mode == "hybrid" else limit
        encoded, before = with_answers(annotated.encoded, [answer[:most] for answer in answers])
        plan = dataclasses.replace(annotated, encoded=encoded)
        trained = trained_logits(config, params, plan, patches, tokenizer.special, mode)
        looked = np.concatenate([b + np.arange(len(ids)) for b, ids in zip(before, script)])
        np.testing.assert_allclose(np.stack(choices.scores), trained[looked], rtol=0, atol=TOLERANCE)
        end = before[-1] + 1 + len(answers[-1][:most])
        check_bookkeeping(stream, encoded.tokens[:end], encoded.grids, len(stream._unkept))
        assert stream._cache[0][0].shape[1] > 256
        return trained[looked]

    computed = [check(mode) for mode in MODES]
    choices.watch()
    assert computed[0].std() > 0.3
    for one, other in itertools.combinations(computed, 2):
        assert np.abs(one - other).max() > 100 * TOLERANCE  # the modes can be told apart


def test_hybrid_scores_are_the_released_systems(choices):
    """Every score of every choice, repetition penalty included, turns cut at sixteen tokens and not."""
    said = [[t for t in row if t >= 0] for row in GOLDEN["said"].tolist()]
    model, _ = letters_model()
    choices.watch()
    stream = Session(model, StreamOptions("hybrid", context=2048), QUERY)
    spoken = [stream.push(panned(i)) for i in range(len(said))]
    expected = GOLDEN["scores"][~np.isnan(GOLDEN["scores"][..., 0])]
    assert [list(s.tokens) for s in spoken] == said
    assert [s.cut for s in spoken] == [len(s) == 16 for s in said]
    assert any(0 < len(s) < 16 for s in said)
    assert any(s.cut for s in spoken)
    np.testing.assert_allclose(np.stack(choices.scores), expected, rtol=0, atol=TOLERANCE)


def slow_choice(logits, seen, n, options, silence):
    """The released decoder's rule, a token at a time."""
    scores = logits.astype(np.float64)
    for i in seen:
        factor = options.repetition_penalty
        scores[i] = scores[i] / factor if scores[i] > 0 else scores[i] * factor
    if options.silence_base is not None:
        odds = np.exp(scores - scores.max())
        if odds[silence] / odds.sum() <= options.silence_base + options.silence_step * n:
            scores[silence] = -np.inf
    return int(scores.argmax())


@pytest.mark.parametrize(("base", "rise"), [(0.2, 0.02), (0.6, -0.05)])
def test_a_session_decides_as_its_definition_says(base, rise):
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
    media = MediaPlan("", np.zeros(0, np.int64), np.zeros(0, np.int64), h * 14, w * 14)
    plan = ExamplePlan(encoded, (media,))
    # A plan without a file is a picture's, one pair: the windows are counted by hand.
    shape = RowShape(1024, t, h * w, plan.targets)
    row = build_row([(plan, [patches.reshape(t, h * w, -1)])], shape, SPECIAL, "mrope", "token")
    rows = {k: jnp.asarray(v)[None] for k, v in row.items()}
    logits = np.asarray(forward(CONFIG)(params, rows)[0])

    plain = dataclasses.replace(options, silence_base=None)
    unpenalised = dataclasses.replace(options, repetition_penalty=1.0)
    differs = {"silence": 0, "penalty": 0, "count": 0}
    for start, turn in zip(before, spoken):
        for n in range(len(turn.tokens) + (not turn.cut)):
            seen = set(encoded.tokens[: start + n + 1].tolist())
            choice = slow_choice(logits[start + n], seen, n, options, LETTERS.silence_id)
            if n == len(turn.tokens):
                assert choice in (tiny.IM_END, tiny.END)
            else:
                assert choice == turn.tokens[n]
            differs["silence"] += choice != slow_choice(logits[start + n], seen, n, plain, 99)
            later = slow_choice(logits[start + n], seen, n + 1, options, LETTERS.silence_id)
            differs["count"] += n > 0 and choice != later
            differs["penalty"] += choice != slow_choice(logits[start + n], seen, n, unpenalised, 99)
    # Both rules mattered, and when; silence was not simply forbidden.
    assert min(differs.values()) > 0, differs
    assert LETTERS.silence_id in [t for turn in spoken for t in turn.tokens]
    assert {turn.cut for turn in spoken} == {True, False}


def test_a_slot_is_the_same_whoever_its_neighbours_are():
    """Three conversations in one batch say, sampled, what each says alone, turn after turn."""
    limit = 16  # as the other tests', so that they share compiled turns
    model, _ = letters_model(end=5.0, silence=3.0)
    vocab = CONFIG.text.vocab_size

    def side_by_side(members, count=5):
        """What each of the members, (seed, temperature), says."""
        streams = [Session(model, StreamOptions("mrope"), QUERY) for _ in members]
        for stream in streams:
            stream.turns = 1  # later turns alone, to compile fewer programs
        cache = empty_cache(CONFIG, len(members), 2048, jnp.float32)
        state = SlotState(jnp.zeros(len(members), jnp.int32), jnp.zeros((len(members), vocab), bool))
        heat = jnp.array([temperature for _, temperature in members])
        controls = Controls(heat, 1.05 + 0 * heat, -1 + 0 * heat, 0 * heat, None)
        said = []
        for turn in range(count):
            inputs = []
            for stream, (seed, _) in zip(streams, members):
                shown = panned(turn + 1) // seed
                inputs.append(stream._turn_input(shown, turn_label(*turn_span(stream.turns))))
            joined = TurnInput(*(jnp.concatenate(parts) for parts in zip(*inputs)))
            drawn = jnp.array([(seed, turn) for seed, _ in members], jnp.uint32)
            how = controls._replace(seeds=drawn)
            spoken, cache, state = run_turn(
                CONFIG, model.stop, limit, model.weights, cache, state, joined, how
            )
            said.append(spoken.tolist())
            for stream, asked, tokens in zip(streams, inputs, spoken):
                cut = bool(tokens[-1] >= 0)
                stream.turns += 1
                kept = int((tokens >= 0).sum()) - cut
                stream.next_position = int(asked.next_position[0]) + kept
                stream._unkept = [int(tokens[-1])] if cut else []
        return list(zip(zip(*said), state.length.tolist()))

    members = [(1, 1.0), (2, 1.0), (3, 0.0)]
    alone = [side_by_side([m])[0] for m in members]
    assert list(side_by_side(members)) == alone
    # They differ, and end at different times, so a neighbour has something to disturb.
    lengths = [[sum(t >= 0 for t in turn) for turn in said] for said, _ in alone]
    assert len({tuple(x) for x in lengths}) > 1, lengths


def test_a_full_context_leaves_a_session_as_it_was():
    """Even before its first turn: smaller pictures may still fit."""
    model, _ = letters_model()
    stream = Session(model, StreamOptions("mrope", context=180), QUERY)
    large = np.zeros((6, 280, 280, 3), np.uint8)
    with pytest.raises(ContextFull, match="after 0 s of video and 0 turns"):
        stream.push(large)
    assert (stream.turns, stream.length, stream.next_position) == (0, 0, 0)
    assert stream.push(panned(0)).start == 0
    with pytest.raises(MediaError, match="changed size"):
        stream.push(large)


class Failing:
    """A sink that cannot close."""

    def write(self, turn):
        pass

    def close(self):
        raise OSError("no space left")


class SaysNumbers:
    """A session whose words are known."""

    turns, told = 0, None

    def push(self, frames, following=None):
        assert self.told is None or frames is self.told
        self.told = following
        start, stop = turn_span(self.turns)
        self.turns += 1
        return SpokenTurn(start / 1e6, stop / 1e6, f"turn {self.turns} ...", (7,), False, 0.02)


@pytest.mark.parametrize("ahead", [False, True])
def test_sinks_are_complete_and_closed_however_a_stream_ends(tmp_path, ahead):
    """Each turn is in each file when it is handed on; a broken source or an early leave closes them."""

    def sinks(name):
        made = [kind(tmp_path / f"{name}.{i}") for i, kind in enumerate((JsonLines, WebVtt, Srt))]
        return made, lambda: [(tmp_path / f"{name}.{i}").read_text("utf-8") for i in range(3)]

    def broken():
        yield from [Turn(panned(0)), Turn(panned(1))]
        raise MediaError("the camera is gone")

    made, texts = sinks("broken")
    stream = comment(SaysNumbers(), broken(), [Failing(), *made], ahead=ahead)
    for n in (1, 2):
        next(stream)
        lines, vtt, srt = texts()
        assert [json.loads(x)["text"] for x in lines.splitlines()][-1] == f"turn {n} ..."
        assert {*json.loads(lines.splitlines()[0])} == {"start", "stop", "text", "tokens", "latency_ms"}
        assert vtt.endswith(f"\nturn {n}\n\n")
        assert srt.endswith(f"\nturn {n}\n\n")
    with pytest.raises((MediaError, OSError)):
        next(stream)
    assert all(sink._file.closed for sink in made)

    made, _ = sinks("left")
    session = SaysNumbers()
    stream = comment(session, (Turn(panned(i)) for i in range(9)), made, ahead=ahead)
    next(stream)
    assert (session.told is not None) == ahead
    stream.close()
    assert all(sink._file.closed for sink in made)
    few = (Turn(panned(i)) for i in range(4))
    assert len([*comment(SaysNumbers(), few, [], ahead=ahead)]) == 4


CUE = r"(\d\d+):([0-5]\d):([0-5]\d)[.,](\d{3})"


def seconds(cue):
    h, m, s, ms = map(int, re.fullmatch(CUE, cue).groups())
    return 3600 * h + 60 * m + s + ms / 1000


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(0, 10**9)), max_size=5))
def test_subtitles_read_back(tmp_path_factory, said):
    """Whatever is said, readers find a cue for each turn with words, its span and its words."""
    folder = tmp_path_factory.mktemp("cues")
    vtt, srt, lines = WebVtt(folder / "v"), Srt(folder / "s"), JsonLines(folder / "j")
    spoken = [
        SpokenTurn(ms / 1000, ms / 1000 + 1, f"{text} ...", (1,), False, 0.0) for text, ms in said
    ]
    for turn in spoken:
        for sink in (vtt, srt, lines):
            sink.write(turn)
    wanted = [(t.start, t.stop, t.words) for t in spoken if t.words]

    def cues(text, skip):
        found = []
        for block in text.split("\n\n")[:-1]:
            span, *words = block.split("\n")[skip:]
            assert len(words) == 1
            start, stop = span.split(" --> ")
            found.append((seconds(start), seconds(stop), words[0]))
        return found

    def read(name):
        with open(folder / name, encoding="utf-8", newline="") as file:
            return file.read()

    head, _, body = read("v").partition("\n\n")
    raw, numbered = cues(body, 0), read("s")
    assert head == "WEBVTT"
    assert not any("<" in words or "-->" in words for _, _, words in raw)
    plain = [html.unescape(re.sub("&(?!(amp|lt|gt);)", "?", words)) for _, _, words in raw]
    assert plain == [words for _, _, words in wanted]
    assert [words for _, _, words in cues(numbered, 1)] == plain
    assert re.findall(r"(?:^|\n\n)(\d+)\n\d\d", numbered) == [str(i + 1) for i in range(len(wanted))]
    for found in (raw, cues(numbered, 1)):
        assert [x[0] for x in found] == pytest.approx([x[0] for x in wanted], abs=6e-4)
        assert [x[1] for x in found] == pytest.approx([x[1] for x in wanted], abs=6e-4)
    assert [json.loads(x)["text"] for x in read("j").split("\n")[:-1]] == [t.text for t in spoken]
