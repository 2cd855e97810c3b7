"""Benchmarks and commentary measured while training, on the run's mesh and in all its processes."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.annotations import ASKING, read_questions
from livecc_jax.evaluate.in_training import examinations
from livecc_jax.evaluate.metrics.commentary import METRICS, SaidTurn, count_clip, summarize
from livecc_jax.evaluate.run.choice import Chooser, Shapes
from livecc_jax.evaluate.run.clips import CommentedClips, read_clips, tag
from livecc_jax.evaluate.run.packed_choice import PackedChoice
from livecc_jax.evaluate.run.teacher_forced import force
from livecc_jax.evaluate.run.video_turns import frames_of, watch
from livecc_jax.model.lora import LORA, LoraConfig, abstract_adapters
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.stream.session import Session, StreamModel
from livecc_jax.train import loop
from livecc_jax.train.config import ComputeConfig, Config, DataConfig, EvaluateConfig
from tests.support.examinations import BUDGET, FRAMES, STREAM, examine, make, model_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("during") / "all"
    make(root)
    return root


@pytest.fixture(scope="module")
def told(data, small_tokenizer):
    """On two devices of one process."""
    return examine(data, small_tokenizer, {"fsdp": 1, "tensor": 2, "devices": 2})


def test_choice_equals_the_evaluation(data, told, small_tokenizer):
    """The figures are those of the option logits that `livecc evaluate` compares."""
    (found, _), (polls, _) = told
    tokenizer, config, params = model_of(small_tokenizer, make_mesh(MeshConfig(devices=1)))
    chooser = Chooser(config, params, tokenizer, "mrope", ASKING["videomme"], Shapes(64, patches=200))
    right, costs, groups = 0, [], {}
    for question in read_questions("videomme", data).questions:
        groups.setdefault(question.source, []).append(question)
    for source, group in groups.items():
        if "gone" in source.path:
            continue
        watched = watch(source, BUDGET, FRAMES)
        asked = chooser.choose(watched, [q.text for q in group], [q.options for q in group])
        for question, choice in zip(group, asked):
            answer = question.options.index(question.answer)
            right += int(np.argmax(choice.logits)) == answer
            costs.append(np.logaddexp.reduce(choice.logits) - choice.logits[answer])
    assert found["asked"] == len(costs) == 6
    assert found["accuracy"] == pytest.approx(100 * right / 6)
    assert np.std(costs) > 1e-3
    assert found["answer_loss"] == pytest.approx(np.mean(costs), abs=1e-4)
    assert polls >= 1


def test_commentary_equals_sessions_by_hand(data, told, small_tokenizer):
    (_, found), (_, polls) = told
    alone = make_mesh(MeshConfig(devices=1))
    tokenizer, config, params = model_of(small_tokenizer, alone)
    counts = []
    # In the same scope as the examination, so that nothing is compiled again.
    with jax.set_mesh(alone), jax.default_device(jax.local_devices()[0]):
        stream = StreamModel(config, jax.tree.map(np.asarray, params), tokenizer)
        for clip in read_clips(str(data / "clips.jsonl"), 9):
            if "gone" in clip.source.path:
                continue
            session = Session(stream, STREAM, clip.prompt, offset_us=clip.reference.start_us)
            frames, turns = frames_of(clip.source, BUDGET), []
            for a, b in [(0, 6), *((i, i + 2) for i in range(6, len(frames), 2))]:
                said = session.push(frames[a:b])
                turns.append(SaidTurn(round(1e6 * said.start), round(1e6 * said.stop), said.words))
            forced = force(stream, frames, clip.reference, clip.prompt, "mrope", 4096)
            counts.append(count_clip(clip.reference, turns, forced))
    expected = {tag(k): v for k, v in summarize(counts).items()}
    assert "perplexity_reference_words" in expected
    assert len(expected) == len(METRICS)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, err_msg=name)
    assert found["clips"] == 2
    assert found["not_beaten"] >= 1
    assert polls == 3
    assert len(read_clips(str(data / "clips.jsonl"), 2)) == 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(data, told, small_tokenizer):
    """With clips that do not divide: nobody waits for ever, and all know all figures."""
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
            [sys.executable, "-m", "tests.support.examinations", str(data), str(small_tokenizer)],
            cwd=root,
            text=True,
            stdout=subprocess.PIPE,
            env=env | {"JAX_PROCESS_ID": str(number)},
        )
        for number in range(2)
    ]
    try:
        said = [json.loads(worker.communicate(timeout=240)[0].splitlines()[-1]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert said[0] == said[1]
    figures, polls = said[0]
    assert polls[1] == 2  # two rounds of two processes
    for ours, theirs in zip(told[0], figures, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=1e-3)


def test_a_run_asks_for_them_by_configuration(data, tmp_path, monkeypatch):
    """They are made from the config and run when held-out loss is; what cannot be is one sentence."""
    base = Config(run=str(tmp_path / "run"), preset="tiny", tokenizer="t", data=DataConfig(index="i"))

    def settings(**fields):
        return dataclasses.replace(base, evaluate=EvaluateConfig(**fields))

    with pytest.raises(ConfigError, match="need `examine`"):
        loop.train(settings(commentary="x"))
    for entry in ("videomme", "dance=/tmp", "mvbench="):
        source = RowSource("i", "t", 1, 1, 1, "mrope", "token", 0, 1)
        monkeypatch.setitem(
            source.__dict__, "opened", type("Opened", (), {"budget": BUDGET, "window": 64})
        )
        monkeypatch.setitem(source.__dict__, "tokenizer", None)
        with pytest.raises(ConfigError, match="must be BENCHMARK=PATH"):
            examinations(settings(choice=(entry,)), None, source, None)


def test_what_adapters_add_is_measured(data, small_tokenizer):
    """A run with adapters has the figures of a model into which they are merged."""
    mesh = make_mesh(MeshConfig(devices=1))
    tokenizer, config, params = model_of(small_tokenizer, mesh)
    lora = LoraConfig(rank=2, targets=("v", "down"))
    adapters = jax.tree.map(
        lambda x: 0.3 * jax.random.normal(jax.random.key(0), x.shape), abstract_adapters(config, lora)
    )
    adapted = ComputeConfig(dtype="float32", remat="none", lora=lora)
    clips = CommentedClips(
        str(data / "clips.jsonl"), 1, BUDGET, config, adapted, tokenizer, STREAM, mesh
    )
    whole = clips._fetched(params | {LORA: adapters})
    assert whole.keys() == params.keys()
    kernel, ab = params["text"]["layers"]["mlp"]["down"]["kernel"][0], adapters["text"]["layers"]["mlp"]
    by_hand = kernel + 8 * ab["down"]["a"][0] @ ab["down"]["b"][0]
    np.testing.assert_allclose(whole["text"]["layers"]["mlp"]["down"]["kernel"][0], by_hand, atol=1e-5)
    shape = RowShape(tokens=256, windows=8, window=64, targets=8)

    def told(compute, params):
        examination = PackedChoice(
            "videomme",
            str(data),
            20,
            FRAMES,
            BUDGET,
            config,
            compute,
            tokenizer,
            "mrope",
            shape,
            1,
            mesh,
        )
        with jax.set_mesh(mesh):
            return examination(params, lambda: False)["answer_loss"]

    plain = ComputeConfig(dtype="float32", remat="none")
    assert told(adapted, params | {LORA: adapters}) == pytest.approx(told(plain, whole), abs=1e-4)
    assert abs(told(plain, whole) - told(plain, params)) > 1e-3
