"""Metrics of a run: FLOPs against a naive count, the learning rate schedule, Weights & Biases."""

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


def count_kernel_params(prefix):
    """The number of parameters of the matrices under a path, without biases and norms."""
    flat, _ = split_trainable(abstract_params(MODEL), ())
    return sum(np.prod(x.shape) for k, x in flat.items() if k.startswith(prefix) and "kernel" in k)


def test_flops_equal_a_naive_count():
    """Two for each weight and token, four for each visible pair and channel, the head on targets."""
    segments = [random_segment(np.random.default_rng(i), text=4 + i) for i in range(2)]
    row = pack(segments, **SHAPE)
    tokens = sum(len(s.tokens) for s in segments)
    visible = sum(t + 1 for s in segments for t in range(len(s.tokens)))
    text, vision = MODEL.text, MODEL.vision
    expected_text = (
        2 * tokens * count_kernel_params("text/layers") + text.layers * 4 * text.width * visible
    )
    pairs = [rows * cols for s in segments for video, rows, cols in s.videos for _ in video]
    patches = sum(pairs)
    expected_vision = (
        2 * patches * (count_kernel_params("vision/blocks") + 1176 * vision.width)
        + 2 * patches // 4 * count_kernel_params("vision/merger")
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


def test_the_learning_rate_warms_up_and_decays_to_zero():
    schedule = learning_rate_schedule(OptimConfig(learning_rate=1e-3, warmup_ratio=0.1), 100)
    rates = np.array([schedule(i) for i in range(101)])
    np.testing.assert_allclose(rates[:11], np.linspace(0, 1e-3, 11), atol=1e-9)
    cosine = 0.5e-3 * (1 + np.cos(np.pi * np.arange(91) / 90))
    np.testing.assert_allclose(rates[10:], cosine, atol=1e-9)
    assert (
        float(learning_rate_schedule(OptimConfig(learning_rate=1e-3, warmup_ratio=0.0), 10)(0))
        > 0.999e-3
    )


def test_weight_decay_applies_to_matrices():
    flat, _ = split_trainable(abstract_params(MODEL), ())
    without_decay = {k for k, decay in weight_decay_mask(flat).items() if not decay}
    assert without_decay == {
        k for k in flat if k.split("/")[-1] in ("bias", "scale", "norm") or "_norm" in k
    }


def test_metrics_also_go_to_weights_and_biases(tmp_path, monkeypatch):
    """With a fake package; if it is missing or refuses, the error names the field."""
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self, exit_code):
            calls.append(exit_code)

    def init(**settings):
        calls.append(settings)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with Dashboard(tmp_path, "project", "my run", {"seed": 3}) as dashboard:
        dashboard.add({"loss": 1.5, "grad_norm": float("nan")}, 7)
        dashboard.add({"step": 0.9}, 7, "time/")
    settings = {"project": "project", "name": "my run", "id": "my-run", "resume": "allow"}
    assert calls == [settings | {"config": {"seed": 3}}, (7, {"loss": 1.5}), (7, {"time/step": 0.9}), 0]

    def refuse(**settings):
        raise RuntimeError("no API key configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    with pytest.raises(ConfigError, match="wandb 'project' cannot be written to: no API key"):
        Dashboard(tmp_path, "project", "x")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb 'project' needs Weights & Biases"):
        Dashboard(tmp_path, "project", "x")
