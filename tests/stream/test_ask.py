"""Questions about a whole video: answers against the training forward of the whole conversation."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.example import ExamplePlan, MediaPlan, plan_example
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import build_row
from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patchify
from livecc_jax.media.shown import Shown, show
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream import ask as ask_module
from livecc_jax.stream.ask import VideoChat
from livecc_jax.stream.session import ContextFull, StreamModel
from livecc_jax.timeline.chat import Encoded, Visual
from tests.support.streaming import CONFIG, SPECIAL, TOKENIZER, options, params

DATA = Path(__file__).parents[2] / "data"
BUDGET = PixelBudget.parse("8")
PENALTY = 1.05
QUESTIONS = ["go", "what then?", "and why, d", "?", "so"]
LIMIT = 7


@functools.cache
def weights(end=2.5):
    """The sessions', that end turns more readily."""
    changed = jax.tree.map(lambda x: x, params())
    head = changed["text"]["head"]
    changed["text"]["head"] = head.at[:, SPECIAL.im_end].multiply(end)
    return changed


@functools.cache
def model():
    return StreamModel(CONFIG, weights(), TOKENIZER)


@pytest.fixture(scope="module")
def clip():
    return show(DATA / "clips/bbb_espeak_narration_30s.mp4", BUDGET, 2.0, 12.0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """What is shown is read and encoded in several pieces."""
    monkeypatch.setattr(ask_module, "CHUNK", 32)
    monkeypatch.setattr(ask_module, "PATCHES", 100)


@jax.jit
def forward(rows):
    return bind(CONFIG, weights())(rows)[0]


def slowly(shown, questions, mode):
    """Answers by running all of the growing conversation again for every token."""
    template, said = model().template, []
    patches, grid = patchify(shown.frames)
    patches = patches.reshape(grid[0], grid[1] * grid[2], -1)
    none = np.zeros(0, np.int64)
    media = MediaPlan("", none, none, 14 * grid[1], 14 * grid[2])
    shape = RowShape(tokens=384, windows=10, window=24, targets=1)
    tokens = np.zeros(0, np.int32)
    for question in questions:
        if len(tokens):
            piece = template.continuation((question,))
        else:
            piece = opening = template.opening((Visual(shown.kind, grid), question))
        tokens = np.concatenate([tokens, piece.tokens])
        answer = []
        while len(answer) < LIMIT:
            nothing = np.zeros(len(tokens), bool)
            encoded = Encoded(tokens, nothing, opening.grids, nothing)
            row = build_row(
                [(ExamplePlan(encoded, (media,)), [patches])], shape, SPECIAL, mode, "token"
            )
            scores = np.array(
                forward({k: jnp.asarray(v)[None] for k, v in row.items()})[len(tokens) - 1]
            )
            for i in set(tokens.tolist()):
                scores[i] = scores[i] / PENALTY if scores[i] > 0 else scores[i] * PENALTY
            best = int(scores.argmax())
            if best in model().stop.end:
                break
            answer.append(best)
            tokens = np.append(tokens, np.int32(best))
        said.append(tuple(answer))
    return said


@pytest.mark.parametrize("mode", ["sequential", "mrope"])
def test_every_answer_is_the_whole_conversations(mode, clip):
    chat = VideoChat(model(), options(mode), clip)
    answers = [chat.ask(q, LIMIT) for q in QUESTIONS[:2]]
    fork = chat.fork()
    answers += [chat.ask(q, LIMIT) for q in QUESTIONS[2:]]
    expected = slowly(clip, QUESTIONS, mode)
    assert [a.tokens for a in answers] == expected
    assert [a.cut for a in answers] == [len(e) == LIMIT for e in expected]
    assert [fork.ask(q, LIMIT).tokens for q in QUESTIONS[2:]] == expected[2:]
    assert {a.cut for a in answers} == {True, False}
    assert [(a.at, a.question) for a in answers] == [(12.0, q) for q in QUESTIONS]
    # The answers before are seen: asked afresh, a question may have another.
    assert VideoChat(model(), options(mode), clip).ask(QUESTIONS[2], LIMIT).tokens != expected[2]


def test_files_are_shown_as_they_are_trained_on():
    """Patches and tokens are those of the shipped annotations; an image is answered about likewise."""
    for number, name, span in ((0, "bbb_espeak_narration_30s.mp4", (0, 8)), (1, "frame.png", ())):
        example = AnnotationFile(DATA / "annotations/qa.jsonl")[number]
        trained = plan_example(example, model().template, BUDGET)
        shown = show(DATA / "clips" / name, BUDGET, *span)
        patches, grid = patchify(shown.frames)
        np.testing.assert_array_equal(patches.reshape(grid[0], -1, 1176), trained.media[0].load())
        question = example.messages[0].content[1]
        asked = model().template.opening((Visual(shown.kind, grid), question)).tokens
        np.testing.assert_array_equal(asked, trained.encoded.tokens[: len(asked)])
    chat = VideoChat(model(), options("mrope"), shown)
    assert chat.ask("go", LIMIT).tokens == slowly(shown, ["go"], "mrope")[0]


def test_what_does_not_fit_says_so(clip):
    with pytest.raises(ContextFull, match=r"what is shown takes 106 tokens, .* the context of 64"):
        VideoChat(model(), options("mrope", context=64), clip)
    chat = VideoChat(model(), options("mrope", context=200), clip)
    first = chat.ask(QUESTIONS[0], LIMIT)
    with pytest.raises(ContextFull, match="200 tokens is full after 1 answer"):
        chat.ask("x" * 100, LIMIT)
    whole = VideoChat(model(), options("mrope"), clip)
    answers = [first, chat.ask("?", LIMIT)]
    assert [a.tokens for a in answers] == [whole.ask(a.question, LIMIT).tokens for a in answers]
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        chat.ask("?", 0)
    with pytest.raises(MediaError, match="even number of frames, not 3"):
        VideoChat(model(), options("mrope"), Shown("video", clip.frames[:3]))
    for wrong, sentence in (
        ({"start": 40.0}, "no frame between 40 s and 30"),
        ({"max_frames": 1}, "at least 2, not 1"),
    ):
        with pytest.raises((MediaError, ConfigError), match=sentence):
            show(DATA / "clips/bbb_espeak_narration_30s.mp4", BUDGET, **wrong)
    with pytest.raises(ConfigError, match=r"frame\.png: an image has no start and end"):
        show(DATA / "clips/frame.png", BUDGET, end=2.0)
