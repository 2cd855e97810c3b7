"""What is reported of a run: arithmetic counted against a naive count, the learning rate's course."""

import sys
import types

import numpy as np
import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.model.flops import forward_flops, step_flops
from livecc_jax.model.qwen2_vl import abstract_params
from livecc_jax.train.config import OptimConfig
from livecc_jax.train.metrics import Dashboard
from livecc_jax.train.optimizer import learning_rate_schedule, weight_decay_mask
from livecc_jax.train.state import split_trainable
from tests.support.rows import MODEL, SHAPE, pack, random_segment


def kernels(prefix):
    """Numbers in the matrices under a path, biases and norms left out."""
    flat, _ = split_trainable(abstract_params(MODEL), ())
    return sum(np.prod(x.shape) for k, x in flat.items() if k.startswith(prefix) and "kernel" in k)


def test_flops_are_those_of_a_naive_count():
    """Every weight twice a token, every visible pair four times a channel, the head on targets."""
    segments = [random_segment(np.random.default_rng(i), text=4 + i) for i in range(2)]
    row = pack(segments, **SHAPE)
    tokens = sum(len(s.tokens) for s in segments)
    seen = sum(t + 1 for s in segments for t in range(len(s.tokens)))
    text, vision = MODEL.text, MODEL.vision
    expected_text = 2 * tokens * kernels("text/layers") + text.layers * 4 * text.width * seen
    pairs = [rows * cols for s in segments for video, rows, cols in s.videos for _ in video]
    patches = sum(pairs)
    expected_vision = (
        2 * patches * (kernels("vision/blocks") + 1176 * vision.width)
        + 2 * patches // 4 * kernels("vision/merger")
        + vision.depth * 4 * vision.width * sum(p * p for p in pairs)
    )
    targets = sum(int(s.supervised.sum()) for s in segments)
    parts = forward_flops(MODEL, row)
    assert parts["text"] == expected_text
    assert parts["vision"] == expected_vision
    assert parts["head"] == 2 * targets * text.width * text.vocab_size
    assert step_flops(MODEL, row, True) == 3 * sum(parts.values())
    assert step_flops(MODEL, row, False) == 3 * sum(parts.values()) - 2 * parts["vision"]


def test_padding_costs_nothing():
    segments = [random_segment(np.random.default_rng(0))]
    wide = SHAPE | {"tokens": 256, "windows": 12, "targets": 80}
    assert forward_flops(MODEL, pack(segments, **SHAPE)) == forward_flops(MODEL, pack(segments, **wide))


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    rate = learning_rate_schedule(OptimConfig(learning_rate=1e-3, warmup_ratio=0.1), 100)
    course = np.array([rate(i) for i in range(101)])
    np.testing.assert_allclose(course[:11], np.linspace(0, 1e-3, 11), atol=1e-9)
    cosine = 0.5e-3 * (1 + np.cos(np.pi * np.arange(91) / 90))
    np.testing.assert_allclose(course[10:], cosine, atol=1e-9)
    assert (
        float(learning_rate_schedule(OptimConfig(learning_rate=1e-3, warmup_ratio=0.0), 10)(0))
        > 0.999e-3
    )


def test_decay_is_for_matrices():
    flat, _ = split_trainable(abstract_params(MODEL), ())
    kept = {k for k, decay in weight_decay_mask(flat).items() if not decay}
    assert kept == {k for k in flat if k.split("/")[-1] in ("bias", "scale", "norm") or "_norm" in k}


def test_figures_go_to_weights_and_biases_too(tmp_path, monkeypatch):
    """Through a stand-in; without the package, or where it refuses, a sentence names the field."""
    told = []

    class Run:
        def log(self, values, step):
            told.append((step, values))

        def finish(self, exit_code):
            told.append(exit_code)

    def init(**how):
        told.append(how)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with Dashboard(tmp_path, "project", "my run", {"seed": 3}) as board:
        board.add({"loss": 1.5, "grad_norm": float("nan")}, 7)
        board.add({"step": 0.9}, 7, "time/")
    begun = {"project": "project", "name": "my run", "id": "my-run", "resume": "allow"}
    assert told == [begun | {"config": {"seed": 3}}, (7, {"loss": 1.5}), (7, {"time/step": 0.9}), 0]

    def refuse(**how):
        raise RuntimeError("no API key configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    with pytest.raises(ConfigError, match="wandb 'project' cannot be written to: no API key"):
        Dashboard(tmp_path, "project", "x")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb 'project' needs Weights & Biases"):
        Dashboard(tmp_path, "project", "x")
