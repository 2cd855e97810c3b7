"""Option logits by the shared prefix, against the forward pass over each whole conversation."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from livecc_jax.checkpoints.names import table
from livecc_jax.data.examples.example import ExamplePlan, MediaPlan
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import build_row
from livecc_jax.errors import ConfigError, MediaError, TokenizerError
from livecc_jax.evaluate.benchmarks.questions import Asking, Source
from livecc_jax.evaluate.run import choice
from livecc_jax.evaluate.run.choice import Chooser, Shapes, Shown, common_prefix, ladder, padded_window
from livecc_jax.evaluate.run.video_turns import Watched, watch
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patchify
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.model.vocabulary import fit_vocabulary
from livecc_jax.parallel.mesh import MeshConfig, make_mesh, parse_mesh
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate, Visual

CLIPS = Path(__file__).parents[2] / "data/clips"
CLIP = str(CLIPS / "bbb_espeak_narration_30s.mp4")
SMALL = Shapes(prefix=64, suffix=32, aside=100, patches=200)
OPTIONS = ("A", "B", "C", "D")


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer):
    return open_tokenizer(small_tokenizer)


@pytest.fixture(scope="module")
def config(tokenizer):
    """A context shorter than every conversation here: they are asked all the same."""
    tiny = fit_vocabulary(preset("tiny"), tokenizer)
    return dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, max_positions=40))


@pytest.fixture(scope="module")
def params(config):
    """Random weights, large enough that every token matters."""
    rng = np.random.default_rng(0)
    flat = {}
    for e in table(config):
        flat[e.path] = jnp.asarray(0.2 * rng.standard_normal(e.full_shape), jnp.float32)
        if "norm" in e.path and not e.path.endswith("bias"):
            flat[e.path] += 1
    return traverse_util.unflatten_dict(flat, sep="/")


def film(pairs, rows, cols, seed=0):
    frames = np.random.default_rng(seed).integers(
        0, 256, (2 * pairs, 14 * rows, 14 * cols, 3), np.uint8
    )
    patches, grid = patchify(frames)
    return Watched(patches.reshape(grid[0], grid[1] * grid[2], -1), grid)


def whole_logits(chooser, params, watched, text, options):
    """One packed row with the whole conversation through the training forward."""
    _, rows, cols = watched.grid
    opening = ChatTemplate(chooser.tokenizer).opening((Visual("video", watched.grid), text))
    extra = chooser.tokenizer.encode(chooser.phrasing.asking.prefix)
    tokens = np.concatenate([opening.tokens, np.array(extra, np.int32)])
    none = np.zeros(len(tokens), np.int32)
    encoded = dataclasses.replace(opening, tokens=tokens, supervised=none > 0, turns=none)
    none = np.zeros(0, np.int64)
    plan = ExamplePlan(encoded, (MediaPlan("", none, none, 14 * rows, 14 * cols),))
    shape = RowShape(tokens=256, windows=8, window=128, targets=1)
    row = build_row(
        [(plan, [watched.patches])], shape, chooser.tokenizer.special, chooser.positions, "token"
    )
    rows_ = {k: jnp.asarray(v)[None] for k, v in row.items()}
    logits = forward(chooser.config, params, rows_, len(tokens) - 1)
    return np.asarray(logits)[chooser.phrasing.option_ids(options)]


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, row, slot):
    model = bind(config, params)
    return model.text.logits(model.hidden(row)[0, slot])


QUESTIONS = [
    "What is it?\nA. A fox\nB. A rabbit\nPlease select the correct answer.",
    "What is it not? " + "Think of it well. " * 6,  # more than may stand beside another
    "Why?",
]


@pytest.mark.parametrize("mode", ["sequential", "mrope", "hybrid"])
def test_forked_questions_equal_whole_conversations(mode, config, params, tokenizer):
    """In every position mode; questions shorter and longer, side by side over one prefix."""
    chooser = Chooser(config, params, tokenizer, mode, Asking(), SMALL)
    watched = film(5, 4, 6)
    forked = chooser.choose(watched, QUESTIONS, [OPTIONS] * 3)
    for text, found in zip(QUESTIONS, forked, strict=True):
        expected = whole_logits(chooser, params, watched, text, OPTIONS)
        assert expected.std() > 1e-2
        assert found.tokens > config.text.max_positions
        np.testing.assert_allclose(found.logits, expected, rtol=0, atol=1e-4)
    # Alone a question has the same answer.
    alone = chooser.choose(watched, QUESTIONS[2:], [OPTIONS])[0]
    np.testing.assert_allclose(alone.logits, forked[2].logits, rtol=0, atol=1e-4)
    # So it has when all stand side by side, and when the first piece is larger, as where attention is
    # fused; with more to come, or not.
    chooser.shapes = dataclasses.replace(SMALL, aside=1024)
    for chooser.whole in (96, 256):
        again = chooser.choose(watched, QUESTIONS, [OPTIONS] * 3)
        for one, other in zip(again, forked, strict=True):
            np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-4)


def test_over_a_mesh_the_answers_are_the_same(config, params, tokenizer):
    """Weights and videos split over devices: videos of other lengths, sizes and questions together."""
    alone = Chooser(config, params, tokenizer, "mrope", Asking(), SMALL)
    mesh = make_mesh(parse_mesh("data=2,fsdp=2,tensor=2"))
    spread = Chooser(config, params, tokenizer, "mrope", Asking(), SMALL, mesh)
    kernel = spread.weights.layers[0]["qkv"]["rows"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    films = [  # of four rows one has no video
        Shown(film(5, 4, 6, 1), QUESTIONS, [OPTIONS] * 3),
        Shown(film(2, 6, 6, 2), QUESTIONS[2:], [("No", "Yes")]),
        Shown(film(7, 4, 4, 3), QUESTIONS[1:], [OPTIONS] * 2),
    ]
    for shown, found in zip(films, spread.ask(films)(), strict=True):
        for one, other in zip(found, alone.choose(*shown), strict=True):
            np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-4)
            assert one.tokens == other.tokens


def test_compiled_programs_are_few(config, params, tokenizer):
    """Videos of many lengths and sizes: programs grow with the logarithm of the longest."""
    chooser = Chooser(config, params, tokenizer, "mrope", Asking("The answer is:\n", "\n"), SMALL)
    for program in (choice.encode, choice.begin, choice.see, choice.ask):
        program.clear_cache()
    rng = np.random.default_rng(0)
    for i in range(8):
        pairs, words = int(rng.integers(1, 6)), int(rng.integers(1, 10))
        rows, cols = 2 * int(rng.integers(2, 4)), 2 * int(rng.integers(2, 4))
        chooser.choose(film(pairs, rows, cols, i), ["Why? " * words], [("No", "Yes")])
    # Caches of 64, 96, 128 and 192 tokens; frame pairs of 16, 24 and 36 patches, in two sizes of call.
    assert choice.begin._cache_size() == 1
    assert choice.see._cache_size() <= 4
    assert choice.ask._cache_size() <= 4
    assert choice.encode._cache_size() <= 6


def test_shapes_on_their_ladders():
    assert [ladder(n, 64) for n in (1, 64, 65, 96, 97, 129, 193)] == [64, 64, 96, 96, 128, 192, 256]
    for n in range(4, 4000, 4):
        assert n <= padded_window(n) <= n * 1.0625 + 4
        assert padded_window(n) % 4 == 0
    assert len({padded_window(n) for n in range(400, 3073)}) <= 48
    for pairs in range(1, 100):
        calls = choice._calls(pairs, 7)
        covered = [first + i for first, windows in calls for i in range(windows)]
        assert covered[:pairs] == list(range(pairs))
        assert len(covered) - pairs < 7
    assert choice._calls(240, 44)[-1] == (220, 22)
    assert common_prefix([np.array([1, 2, 3]), np.array([1, 2, 4, 5])]) == 2
    assert common_prefix([np.array([1, 2]), np.array([1, 2, 3])]) == 1


def test_a_mesh_is_named_as_in_training(config, params, tokenizer):
    assert parse_mesh("data=2,tensor=2") == MeshConfig(2, 1, 1, 2, devices=4)
    assert parse_mesh("data=-1,tensor=2") == MeshConfig(-1, 1, 1, 2, devices=0)
    for text in ("data", "data=two", "rows=2", "data=2,data=2"):
        with pytest.raises(ConfigError, match="--mesh"):
            parse_mesh(text)
    for sizes, sentence in (("context=2", "must be 1"), ("tensor=4", "does not divide")):
        mesh = make_mesh(parse_mesh(sizes))
        with pytest.raises(ConfigError, match=sentence):
            Chooser(config, params, tokenizer, "mrope", Asking(), SMALL, mesh)


def test_options_must_differ(config, params, tokenizer):
    with pytest.raises(TokenizerError, match="apart"):
        Chooser(config, params, tokenizer, "mrope", Asking(), SMALL).phrasing.option_ids(["A", "A"])


def test_frames_are_spread_over_the_span(tmp_path):
    """As published: 2 a second, at least 4, an even number; OVO-Bench's spans moved into the video."""
    budget = PixelBudget.parse("16")
    assert watch(Source(CLIP), budget).grid[0] == 30
    assert watch(Source(CLIP, 0, 5_000_000), budget).grid[0] == 5
    assert watch(Source(CLIP), budget, max_frames=8).grid[0] == 4
    with pytest.raises(MediaError, match="no frame in 40 s to 50 s"):
        watch(Source(CLIP, 40_000_000, 50_000_000), budget)
    # Beyond the end: the last frame alone is left, shown twice.
    assert watch(Source(CLIP, 40_000_000, 50_000_000, clamp=True), budget).grid[0] == 1
    # An end before the first frame: the first second.
    assert watch(Source(CLIP, 0, 0, clamp=True), budget).grid[0] == 2
    import cv2

    for i in range(9):
        cv2.imwrite(str(tmp_path / f"{i:05}.jpg"), np.full((60, 80, 3), 20 * i, np.uint8))
    assert watch(Source(str(tmp_path)), budget).grid[0] == 3  # 3 s at 3 frames a second
    assert watch(Source(str(tmp_path), 1_000_000, 2_000_000), budget).grid[0] == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="holds no frames"):
        watch(Source(str(tmp_path / "none")), budget)
