"""Questions about a whole video: answers against the training forward of the whole conversation."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.examples.encode import EncodedExample, encode_example
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import build_row
from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice, SampledFrames, sample_media
from livecc_jax.media.pixels import patchify
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.ask import VideoChat
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.turn import ContextFull
from livecc_jax.timeline.chat import EncodedChat, Visual
from tests.support.streaming import CONFIG, SPECIAL, TOKENIZER, options, params

DATA = Path(__file__).parents[2] / "data"
BUDGET = PixelBudget.parse("8")
PENALTY = 1.05
QUESTIONS = ["go", "what then?", "and why, d", "?", "so"]
LIMIT = 7


@functools.cache
def weights(end=2.5):
    """Weights that end turns more readily."""
    weights = jax.tree.map(lambda x: x, params())
    head = weights["text"]["head"]
    weights["text"]["head"] = head.at[:, SPECIAL.im_end].multiply(end)
    return weights


@functools.cache
def model():
    return StreamModel(CONFIG, weights(), TOKENIZER)


@pytest.fixture(scope="module")
def clip():
    return sample_media(DATA / "clips/bbb_espeak_narration_30s.mp4", BUDGET, 2.0, 12.0)


def chat_about(video, mode, **changes):
    """A chat that prefills and encodes its video in several calls."""
    return VideoChat(model(), options(mode, **changes), video, chunk=32, max_patches=100)


@jax.jit
def forward(rows):
    return bind(CONFIG, weights())(rows)[0]


def answer_by_definition(shown, questions, mode):
    """Answers by running the whole growing conversation again for every token."""
    template, answers = model().template, []
    patches, grid = patchify(shown.frames)
    patches = patches.reshape(grid[0], grid[1] * grid[2], -1)
    none = np.zeros(0, np.int64)
    media = MediaSlice("", none, none, 14 * grid[1], 14 * grid[2])
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
            encoded = EncodedChat(tokens, nothing, opening.grids, nothing)
            row = build_row(
                [(EncodedExample(encoded, (media,)), [patches])], shape, SPECIAL, mode, "token"
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
        answers.append(tuple(answer))
    return answers


@pytest.mark.parametrize("mode", ["sequential", "mrope"])
def test_every_answer_is_that_of_the_whole_conversation(mode, clip):
    chat = chat_about(clip, mode)
    answers = [chat.ask(q, LIMIT) for q in QUESTIONS[:2]]
    fork = chat.fork()
    answers += [chat.ask(q, LIMIT) for q in QUESTIONS[2:]]
    expected = answer_by_definition(clip, QUESTIONS, mode)
    assert [a.tokens for a in answers] == expected
    assert [a.truncated for a in answers] == [len(e) == LIMIT for e in expected]
    assert [fork.ask(q, LIMIT).tokens for q in QUESTIONS[2:]] == expected[2:]
    assert {a.truncated for a in answers} == {True, False}
    assert [(a.at, a.question) for a in answers] == [(12.0, q) for q in QUESTIONS]
    # It depends on the answers before: asked first, a question may have another.
    assert chat_about(clip, mode).ask(QUESTIONS[2], LIMIT).tokens != expected[2]


def test_files_are_sampled_as_in_training():
    """Patches and tokens are those of the shipped annotations; an image is answered about likewise."""
    for number, name, span in ((0, "bbb_espeak_narration_30s.mp4", (0, 8)), (1, "frame.png", ())):
        example = AnnotationFile(DATA / "annotations/qa.jsonl")[number]
        trained = encode_example(example, model().template, BUDGET)
        shown = sample_media(DATA / "clips" / name, BUDGET, *span)
        patches, grid = patchify(shown.frames)
        np.testing.assert_array_equal(
            patches.reshape(grid[0], -1, 1176), trained.media[0].load_patches()
        )
        question = example.messages[0].content[1]
        tokens = model().template.opening((Visual(shown.kind, grid), question)).tokens
        np.testing.assert_array_equal(tokens, trained.encoded.tokens[: len(tokens)])
    chat = chat_about(shown, "mrope")
    assert chat.ask("go", LIMIT).tokens == answer_by_definition(shown, ["go"], "mrope")[0]


def test_a_video_or_question_that_does_not_fit_is_refused(clip):
    with pytest.raises(ContextFull, match=r"the video takes 106 tokens, .* the context of 64"):
        chat_about(clip, "mrope", context=64)
    chat = chat_about(clip, "mrope", context=200)
    first = chat.ask(QUESTIONS[0], LIMIT)
    with pytest.raises(ContextFull, match="200 tokens is full after 1 answer"):
        chat.ask("x" * 100, LIMIT)
    roomy = chat_about(clip, "mrope")
    answers = [first, chat.ask("?", LIMIT)]
    assert [a.tokens for a in answers] == [roomy.ask(a.question, LIMIT).tokens for a in answers]
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        chat.ask("?", 0)
    with pytest.raises(MediaError, match="even number of frames, not 3"):
        chat_about(SampledFrames("video", clip.frames[:3]), "mrope")
    for arguments, message in (
        ({"start": 40.0}, "no frame between 40 s and 30"),
        ({"max_frames": 1}, "at least 2, not 1"),
    ):
        with pytest.raises((MediaError, ConfigError), match=message):
            sample_media(DATA / "clips/bbb_espeak_narration_30s.mp4", BUDGET, **arguments)
    with pytest.raises(ConfigError, match=r"frame\.png: an image has no start and end"):
        sample_media(DATA / "clips/frame.png", BUDGET, end=2.0)
