"""On Apache Beam: the same bytes as in one process. `make test-beam` runs these in an environment of
their own, since Beam holds protobuf and pyarrow below what the rest of the project uses."""

import dataclasses
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from livecc_jax.errors import LiveCCError
from livecc_jax.produce.line import phases
from livecc_jax.produce.line.beam import BeamRunner
from livecc_jax.produce.line.limits import Limits
from tests.support.produce import (
    NO_LANGUAGE,
    outputs,
    rejections_of,
    run_produce,
    source_line,
    write_sources,
)

pytestmark = [
    pytest.mark.beam,
    pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="Apache Beam is not here"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    sources = write_sources(folder / "sources.jsonl", 30)
    run_produce(sources, folder / "out")
    return sources, folder / "out"


@pytest.mark.parametrize("workers", [1, 2])
def test_beam_gives_the_bytes_of_one_process(undisturbed, tmp_path, workers):
    sources, expected = undisturbed
    produced = run_produce(sources, tmp_path, runner=BeamRunner(workers=workers))
    assert produced.done["words"] == 30
    assert outputs(tmp_path) == outputs(expected)
    again = run_produce(sources, tmp_path, runner=BeamRunner())
    assert sum(again.done.values()) == 0


@pytest.fixture
def job_service():
    """The address of Beam's Python job service, which takes pipelines as Flink's and Spark's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = "apache_beam.runners.portability.local_job_service_main"
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"localhost:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_portable_path_gives_the_same_bytes(undisturbed, tmp_path, job_service):
    sources, expected = undisturbed
    options = (f"job_endpoint={job_service}", "environment_type=LOOPBACK")
    run_produce(sources, tmp_path, runner=BeamRunner("PortableRunner", options))
    assert outputs(tmp_path) == outputs(expected)


def test_workers_that_share_no_folder_get_their_files_through_an_exchange(undisturbed, tmp_path):
    sources, expected = undisturbed
    address = (tmp_path / "exchange").as_uri()
    run_produce(sources, tmp_path / "out", runner=BeamRunner(exchange=address))
    assert outputs(tmp_path / "out") == outputs(expected)
    assert not list((tmp_path / "out").rglob("*.log"))
    assert list((tmp_path / "exchange").rglob("clips-*/*.jsonl"))


RUN = """
import sys
from pathlib import Path
from livecc_jax.produce.line.beam import BeamRunner
from tests.support.produce import run_produce
run_produce(Path(sys.argv[1]), Path(sys.argv[2]), runner=BeamRunner())
"""


def test_a_killed_pipeline_goes_on_where_it_was(undisturbed, tmp_path):
    sources, expected = undisturbed
    command = [sys.executable, "-c", RUN, str(sources), str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("work/words-*/*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("work/words-*/*.jsonl"))
    produced = run_produce(sources, tmp_path, runner=BeamRunner())
    assert produced.done["words"] < 30
    assert outputs(tmp_path) == outputs(expected)


def test_a_poisonous_video_ends_its_child_and_not_the_pipeline(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "from livecc_jax.produce.line import phases\n"
        "phases.STAGES['distinct'] = 'tests.support.produce:misbehave'\n"
    )
    monkeypatch.setitem(phases.STAGES, "distinct", "tests.support.produce:misbehave")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    sources = tmp_path / "sources.jsonl"
    names = ("good", "hang", "die")
    lines = [source_line(i + 1, video=f"{name}.mp4") for i, name in enumerate(names)]
    sources.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_produce(sources, tmp_path / "out", runner=BeamRunner(limits=Limits(seconds=4.0)))
    reasons = {r["source"]: r["reason"] for r in rejections_of(tmp_path / "out") if not r["clip"]}
    assert reasons == {
        "hang.mp4": "took more than 4 s",
        "die.mp4": "ended its worker with code 3",
    }


def test_a_pipeline_that_fails_is_one_sentence(undisturbed, tmp_path):
    sources, _ = undisturbed
    parameters = dataclasses.replace(
        NO_LANGUAGE.with_filters(["faces"]), face_model="tests.support.nothing:here"
    )
    with pytest.raises(LiveCCError, match=r"nothing:here: the plug-in cannot be imported \([^\[]*$"):
        run_produce(sources, tmp_path, parameters, BeamRunner())
