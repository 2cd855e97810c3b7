"""Option logits computed with a shared prefix equal those of the forward pass over each full prompt."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import build_row
from livecc_jax.errors import ConfigError, TokenizerError
from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
from livecc_jax.evaluate.run import choice_steps
from livecc_jax.evaluate.run.buckets import ShapeBuckets, bucket_size, vision_calls, window_bucket
from livecc_jax.evaluate.run.choice import ChoiceScorer, VideoQuestions
from livecc_jax.evaluate.run.prompt_encoder import PromptEncoder, common_prefix_length
from livecc_jax.evaluate.run.sampled_video import SampledVideo
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.pixels import patchify
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.parallel.mesh import MeshConfig, make_mesh, parse_mesh
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate, Visual
from tests.support.random_models import large_random_params

CLIPS = Path(__file__).parents[3] / "data/clips"
CLIP = str(CLIPS / "bbb_espeak_narration_30s.mp4")
SMALL = ShapeBuckets(
    prefill_chunk=64, min_question_tokens=32, max_question_tokens=100, vision_patches=200
)
OPTIONS = ("A", "B", "C", "D")


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return open_tokenizer(small_tokenizer)


@pytest.fixture(scope="module")
def config(tokenizer):
    """The context is shorter than every prompt here, and they are scored all the same."""
    tiny = fit_vocabulary(preset("tiny"), tokenizer)
    return dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, max_positions=40))


@pytest.fixture(scope="module")
def params(config):
    return large_random_params(config)


def random_video(pairs, rows, cols, seed=0):
    frames = np.random.default_rng(seed).integers(
        0, 256, (2 * pairs, 14 * rows, 14 * cols, 3), np.uint8
    )
    patches, grid = patchify(frames)
    return SampledVideo(patches.reshape(grid[0], grid[1] * grid[2], -1), grid)


def full_prompt_logits(scorer, params, video, text, options):
    """Logits and probabilities of the options by the training forward pass over the full prompt."""
    _, rows, cols = video.grid
    opening = ChatTemplate(scorer.tokenizer).opening((Visual("video", video.grid), text))
    prefix = scorer.tokenizer.encode(scorer.prompt_encoder.prompt_template.answer_prefix)
    tokens = np.concatenate([opening.tokens, np.array(prefix, np.int32)])
    zeros = np.zeros(len(tokens), np.int32)
    encoded = dataclasses.replace(opening, tokens=tokens, supervised=zeros > 0, turns=zeros)
    empty = np.zeros(0, np.int64)
    example = EncodedExample(encoded, (MediaSlice("", empty, empty, 14 * rows, 14 * cols),))
    shape = RowShape(tokens=256, windows=8, window=128, targets=1)
    row = build_row(
        [(example, [video.patches])], shape, scorer.tokenizer.special, scorer.positions, "token"
    )
    batch = {k: jnp.asarray(v)[None] for k, v in row.items()}
    logits = np.asarray(forward(scorer.model.config, params, batch, len(tokens) - 1))
    probabilities = np.asarray(jax.nn.softmax(logits))
    ids = scorer.prompt_encoder.option_ids(options)
    return logits[ids], probabilities[ids]


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, batch, slot):
    model = bind(config, params)
    return model.text.logits(model.hidden_states(batch)[0, slot])


QUESTIONS = [
    "What is it?\nA. A fox\nB. A rabbit\nPlease select the correct answer.",
    "What is it not? " + "Think of it well. " * 6,  # too long to be scored with another question
    "Why?",
]


@pytest.mark.parametrize("mode", ["sequential", "mrope", "hybrid"])
def test_questions_after_a_shared_prefix_equal_full_prompts(mode, config, params, tokenizer):
    """In every position mode, for short and long questions in one batch after one prefix."""
    scorer = ChoiceScorer(config, params, tokenizer, mode, PromptTemplate(), SMALL, with_log_total=True)
    video = random_video(5, 4, 6)
    batched = scorer.score(video, QUESTIONS, [OPTIONS] * 3)
    for text, scores in zip(QUESTIONS, batched, strict=True):
        expected, probabilities = full_prompt_logits(scorer, params, video, text, OPTIONS)
        assert expected.std() > 1e-2
        assert scores.prompt_tokens > config.text.max_positions
        np.testing.assert_allclose(scores.logits, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            np.exp(scores.logits - scores.log_total), probabilities, rtol=1e-3, atol=1e-7
        )
    # A question by itself has the same scores.
    alone = scorer.score(video, QUESTIONS[2:], [OPTIONS])[0]
    np.testing.assert_allclose(alone.logits, batched[2].logits, rtol=0, atol=1e-4)
    # So has one call for all questions, and a larger first chunk, as where attention is fused, whether
    # it holds the full prefix or not.
    scorer.model.buckets = dataclasses.replace(SMALL, max_question_tokens=1024)
    for scorer.model.max_first_chunk in (96, 256):
        again = scorer.score(video, QUESTIONS, [OPTIONS] * 3)
        for a, b in zip(again, batched, strict=True):
            np.testing.assert_allclose(a.logits, b.logits, rtol=0, atol=1e-4)


def test_scores_over_a_mesh_are_the_same(config, params, tokenizer):
    """Weights and videos are sharded; videos of a batch differ in length, size and questions."""
    single = ChoiceScorer(config, params, tokenizer, "mrope", PromptTemplate(), SMALL)
    mesh = make_mesh(parse_mesh("data=2,fsdp=2,tensor=2"))
    sharded = ChoiceScorer(config, params, tokenizer, "mrope", PromptTemplate(), SMALL, mesh)
    kernel = max(jax.tree.leaves(sharded.model.weights.layers[0]["qkv"]), key=lambda x: x.size)
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    videos = [  # three videos in a batch of four
        VideoQuestions(random_video(5, 4, 6, 1), QUESTIONS, [OPTIONS] * 3),
        VideoQuestions(random_video(2, 6, 6, 2), QUESTIONS[2:], [("No", "Yes")]),
        VideoQuestions(random_video(7, 4, 4, 3), QUESTIONS[1:], [OPTIONS] * 2),
    ]
    for video, scores in zip(videos, sharded.submit(videos)(), strict=True):
        for a, b in zip(scores, single.score(*video), strict=True):
            np.testing.assert_allclose(a.logits, b.logits, rtol=0, atol=1e-4)
            assert a.prompt_tokens == b.prompt_tokens


def test_compiled_programs_are_few(config, params, tokenizer):
    """For videos of many lengths and sizes, programs grow with the logarithm of the longest."""
    template = PromptTemplate("The answer is:\n", "\n")
    scorer = ChoiceScorer(config, params, tokenizer, "mrope", template, SMALL)
    programs = (
        choice_steps.encode_windows,
        choice_steps.prefill_first_chunk,
        choice_steps.prefill_next_chunk,
        choice_steps.question_logits,
    )
    for program in programs:
        program.clear_cache()
    rng = np.random.default_rng(0)
    for i in range(8):
        pairs, words = int(rng.integers(1, 6)), int(rng.integers(1, 10))
        rows, cols = 2 * int(rng.integers(2, 4)), 2 * int(rng.integers(2, 4))
        scorer.score(random_video(pairs, rows, cols, i), ["Why? " * words], [("No", "Yes")])
    # Caches of 64, 96, 128 and 192 tokens; frame pairs of 16, 24 and 36 patches, in two sizes of call.
    assert choice_steps.prefill_first_chunk._cache_size() == 1
    assert choice_steps.prefill_next_chunk._cache_size() <= 4
    assert choice_steps.question_logits._cache_size() <= 4
    assert choice_steps.encode_windows._cache_size() <= 6


def test_buckets():
    sizes = [bucket_size(n, 64) for n in (1, 64, 65, 96, 97, 129, 193)]
    assert sizes == [64, 64, 96, 96, 128, 192, 256]
    for n in range(4, 4000, 4):
        assert n <= window_bucket(n) <= n * 1.0625 + 4
        assert window_bucket(n) % 4 == 0
    assert len({window_bucket(n) for n in range(400, 3073)}) <= 48
    for pairs in range(1, 100):
        calls = vision_calls(pairs, 7)
        covered = [first + i for first, windows in calls for i in range(windows)]
        assert covered[:pairs] == list(range(pairs))
        assert len(covered) - pairs < 7
    assert vision_calls(240, 44)[-1] == (220, 22)


def test_common_prefix_length():
    assert common_prefix_length([np.array([1, 2, 3]), np.array([1, 2, 4, 5])]) == 2
    assert common_prefix_length([np.array([1, 2]), np.array([1, 2, 3])]) == 1


def test_a_mesh_is_given_as_in_training(config, params, tokenizer):
    assert parse_mesh("data=2,tensor=2") == MeshConfig(2, 1, 1, 2, devices=4)
    assert parse_mesh("data=-1,tensor=2") == MeshConfig(-1, 1, 1, 2, devices=0)
    for text in ("data", "data=two", "rows=2", "data=2,data=2"):
        with pytest.raises(ConfigError, match="--mesh"):
            parse_mesh(text)
    for sizes, message in (("context=2", "must be 1"), ("tensor=4", "does not divide")):
        mesh = make_mesh(parse_mesh(sizes))
        with pytest.raises(ConfigError, match=message):
            ChoiceScorer(config, params, tokenizer, "mrope", PromptTemplate(), SMALL, mesh)


def test_options_must_differ(tokenizer):
    with pytest.raises(TokenizerError, match="apart"):
        PromptEncoder(tokenizer, PromptTemplate()).option_ids(["A", "A"])
