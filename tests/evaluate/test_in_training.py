"""Evaluators of a training run: benchmarks and commentary, on the run's mesh, in all its processes."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.annotations import PROMPT_TEMPLATES, read_questions
from livecc_jax.evaluate.in_training import make_evaluators
from livecc_jax.evaluate.metrics.commentary import PredictedTurn, count_clip
from livecc_jax.evaluate.metrics.commentary_metrics import METRICS, compute_metrics
from livecc_jax.evaluate.run.buckets import ShapeBuckets
from livecc_jax.evaluate.run.choice import ChoiceScorer
from livecc_jax.evaluate.run.clip_commentary import (
    fetch_merged_params,
    read_commentary_clips,
    scalar_tag,
)
from livecc_jax.evaluate.run.sampled_video import sample_frames, sample_video
from livecc_jax.evaluate.run.teacher_forced import teacher_force
from livecc_jax.media.rules import MediaRules
from livecc_jax.model.lora import LORA, LoraConfig, abstract_adapters
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.session import Session
from livecc_jax.train import loop
from livecc_jax.train.config import ComputeConfig, Config, DataConfig, EvaluateConfig
from tests.support.evaluators import (
    BUDGET,
    FRAMES,
    STREAM,
    choice_evaluator,
    evaluate_on_mesh,
    sharded_model,
    write_data,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("in_training") / "all"
    write_data(root)
    return root


@pytest.fixture(scope="module")
def evaluated(data, small_tokenizer):
    """Metrics and numbers of polls of both evaluators, on two devices of one process."""
    return evaluate_on_mesh(data, small_tokenizer, {"fsdp": 1, "tensor": 2, "devices": 2})


def test_choice_equals_livecc_evaluate(data, evaluated, small_tokenizer):
    """The metrics follow from the option logits that `livecc evaluate` compares."""
    (metrics, _), (polls, _) = evaluated
    tokenizer, config, params = sharded_model(small_tokenizer, make_mesh(MeshConfig(devices=1)))
    template, buckets = PROMPT_TEMPLATES["videomme"], ShapeBuckets(64, vision_patches=200)
    scorer = ChoiceScorer(config, params, tokenizer, "mrope", template, buckets)
    correct, losses, groups = 0, [], {}
    for question in read_questions("videomme", data).questions:
        groups.setdefault(question.source, []).append(question)
    for source, group in groups.items():
        if "gone" in source.path:
            continue
        video = sample_video(source, BUDGET, FRAMES)
        scores = scorer.score(video, [q.text for q in group], [q.options for q in group])
        for question, (logits, *_) in zip(group, scores):
            answer = question.options.index(question.answer)
            correct += int(np.argmax(logits)) == answer
            losses.append(np.logaddexp.reduce(logits) - logits[answer])
    assert metrics["asked"] == len(losses) == 6
    assert metrics["accuracy"] == pytest.approx(100 * correct / 6)
    assert np.std(losses) > 1e-3
    assert metrics["answer_loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert polls >= 1


def test_commentary_equals_sessions(data, evaluated, small_tokenizer):
    """The metrics are those of a session that is fed turn by turn."""
    (_, metrics), (_, polls) = evaluated
    mesh = make_mesh(MeshConfig(devices=1))
    tokenizer, config, params = sharded_model(small_tokenizer, mesh)
    counts = []
    # In the same scope as the evaluator, so that nothing is compiled again.
    with jax.set_mesh(mesh), jax.default_device(jax.local_devices()[0]):
        model = StreamModel(config, jax.tree.map(np.asarray, params), tokenizer)
        for clip in read_commentary_clips(str(data / "clips.jsonl"), 9):
            if "gone" in clip.source.path:
                continue
            session = Session(model, STREAM, clip.prompt, offset_us=clip.reference.start_us)
            frames, turns = sample_frames(clip.source, BUDGET), []
            for a, b in [(0, 6), *((i, i + 2) for i in range(6, len(frames), 2))]:
                spoken = session.push(frames[a:b])
                start_us, stop_us = round(1e6 * spoken.start), round(1e6 * spoken.stop)
                turns.append(PredictedTurn(start_us, stop_us, spoken.words))
            forced = teacher_force(model, frames, clip.reference, clip.prompt, "mrope", 4096)
            counts.append(count_clip(clip.reference, turns, forced))
    expected = {scalar_tag(k): v for k, v in compute_metrics(counts).items()}
    assert "perplexity_reference_words" in expected
    assert len(expected) == len(METRICS)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)
    assert metrics["clips"] == 2
    assert metrics["not_beaten"] >= 1
    assert polls == 3
    assert len(read_commentary_clips(str(data / "clips.jsonl"), 2)) == 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(data, evaluated, small_tokenizer):
    """With clips that do not divide evenly: no process hangs, and all have all metrics."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    root = Path(__file__).parents[2]
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "TPU_SKIP_MDS_QUERY": "1",
        "PYTHONPATH": str(root),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.evaluators", str(data), str(small_tokenizer)],
            cwd=root,
            text=True,
            stdout=subprocess.PIPE,
            env=env | {"JAX_PROCESS_ID": str(number)},
        )
        for number in range(2)
    ]
    try:
        outputs = [
            json.loads(worker.communicate(timeout=240)[0].splitlines()[-1]) for worker in workers
        ]
    finally:
        for worker in workers:
            worker.kill()
    assert outputs[0] == outputs[1]
    metrics, polls = outputs[0]
    assert polls[1] == 2  # two rounds of two processes
    for one_process, two_processes in zip(evaluated[0], metrics, strict=True):
        assert one_process.keys() == two_processes.keys()
        np.testing.assert_allclose([*one_process.values()], [*two_processes.values()], rtol=1e-3)


def test_evaluators_are_made_from_the_config(tmp_path):
    """A bad entry is refused in one sentence."""
    base = Config(run=str(tmp_path / "run"), preset="tiny", tokenizer="t", data=DataConfig(index="i"))

    def config(**fields):
        return dataclasses.replace(base, evaluate=EvaluateConfig(**fields))

    with pytest.raises(ConfigError, match="need `make_evaluators`"):
        loop.train(config(commentary="x"))
    source = SimpleNamespace(
        mixture=SimpleNamespace(budget=BUDGET, window=64, media_rules=lambda _: MediaRules()),
        tokenizer=None,
        shape=None,
    )
    for entry in ("videomme", "dance=/tmp", "mvbench="):
        with pytest.raises(ConfigError, match="must be BENCHMARK=PATH"):
            make_evaluators(config(choice=(entry,)), None, source, None)


def test_adapters_are_merged(data, small_tokenizer):
    """A run with adapters has the metrics of a model into which they are merged."""
    mesh = make_mesh(MeshConfig(devices=1))
    tokenizer, config, params = sharded_model(small_tokenizer, mesh)
    lora = LoraConfig(rank=2, targets=("v", "down"))
    adapters = jax.tree.map(
        lambda x: 0.3 * jax.random.normal(jax.random.key(0), x.shape), abstract_adapters(config, lora)
    )
    with_adapters = ComputeConfig(dtype="float32", remat="none", lora=lora)
    merged = fetch_merged_params(params | {LORA: adapters}, mesh, with_adapters)
    assert merged.keys() == params.keys()
    down, merged_down = (p["text"]["layers"]["mlp"]["down"] for p in (params, merged))
    adapter = adapters["text"]["layers"]["mlp"]["down"]
    expected = down["kernel"][0] + 8 * adapter["a"][0] @ adapter["b"][0]
    np.testing.assert_allclose(merged_down["kernel"][0], expected, atol=1e-5)

    def answer_loss(compute, params):
        evaluator = choice_evaluator(data, config, compute, tokenizer, 1, mesh)
        with jax.set_mesh(mesh):
            return evaluator(params, lambda: False)["answer_loss"]

    plain = ComputeConfig(dtype="float32", remat="none")
    merged_loss = answer_loss(plain, merged)
    assert answer_loss(with_adapters, params | {LORA: adapters}) == pytest.approx(merged_loss, abs=1e-4)
    assert abs(merged_loss - answer_loss(plain, params)) > 1e-3
