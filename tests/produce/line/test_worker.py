"""Workers that hang, die, take too much memory or raise: the unit is rejected, the rest goes on."""

import json

import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.produce.line import phases
from livecc_jax.produce.line.limits import Limits
from livecc_jax.produce.line.local import LocalPool
from tests.support.produce import clips_of, rejections_of, run_produce, source_line


@pytest.fixture
def misbehaving(monkeypatch, tmp_path):
    """A stage in every worker that does what a video's name says."""
    (tmp_path / "sitecustomize.py").write_text(
        "from livecc_jax.produce.line import phases\n"
        "phases.STAGES['distinct'] = 'tests.support.produce:misbehave'\n"
    )
    monkeypatch.setitem(phases.STAGES, "distinct", "tests.support.produce:misbehave")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


NAMES = ("good0", "hang", "good1", "die", "memory", "raise", "good2")


def test_a_poisonous_video_becomes_a_rejection(misbehaving, tmp_path):
    sources = tmp_path / "sources.jsonl"
    lines = [source_line(i + 1, video=f"{name}.mp4", width=1280) for i, name in enumerate(NAMES)]
    sources.write_text("".join(json.dumps(line) + "\n" for line in lines))
    limits = Limits(seconds=4.0, memory_gb=0.6)
    run_produce(sources, tmp_path / "out", runner=LocalPool(2, limits), shards=2)
    found = {
        r["source"]: (r["stage"], r["reason"]) for r in rejections_of(tmp_path / "out") if not r["clip"]
    }
    assert found.pop("memory.mp4")[1] in (
        "took more than 0.6 GB of memory", "needs more memory than a worker may have",
    )  # fmt: skip
    assert found == {
        "hang.mp4": ("distinct", "took more than 4 s"),
        "die.mp4": ("distinct", "ended its worker with code 3"),
        "raise.mp4": ("distinct", "the stage failed"),
    }
    videos = {clip[0]["content"][0]["video"].rpartition("/")[2] for clip in clips_of(tmp_path / "out")}
    videos |= {r["source"] for r in rejections_of(tmp_path / "out") if r["clip"]}
    assert videos == {f"{name}.mp4" for name in NAMES if name.startswith("good")}


def test_what_is_wrong_with_the_run_ends_it(tmp_path, monkeypatch):
    import dataclasses

    from livecc_jax.errors import LiveCCError
    from tests.support.produce import NO_LANGUAGE, write_sources

    sources = write_sources(tmp_path / "sources.jsonl", 4)
    parameters = dataclasses.replace(
        NO_LANGUAGE.with_filters(["faces"]), face_model="tests.support.nothing:here"
    )
    with pytest.raises(
        LiveCCError, match=r"tests\.support\.nothing:here: the plug-in cannot be imported"
    ):
        run_produce(sources, tmp_path / "out", parameters, LocalPool(1))


def test_a_model_on_this_machine_has_a_worker_of_its_own_number():
    import dataclasses

    from livecc_jax.produce.line.local import has_local_model
    from livecc_jax.produce.parameters import SFT

    named = dataclasses.replace(SFT, text_model="/m", face_model="f.onnx", prompt_model="http://h/v1#m")
    local = dataclasses.replace(SFT, face_model="/vl", prompt_model="/m")
    found = [
        {phase.name for phase in phases.PHASES if has_local_model(parameters, phase)}
        for parameters in (named, local, dataclasses.replace(SFT, face_model="a.b:c"))
    ]
    assert found == [{"text"}, {"faces", "prompts"}, set()]


def test_a_runner_that_loses_data_is_refused():
    from livecc_jax.produce.line.beam import BeamRunner

    for name in ("DirectRunner", "DaskRunner"):
        with pytest.raises(ConfigError, match="is not offered"):
            BeamRunner(name)
