"""The report and the command: numbers agree with the files, nothing of a title becomes markup."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from livecc_jax.cli import main
from livecc_jax.produce.line.phases import PHASES, public_name
from livecc_jax.produce.report.advice import REMEDIES
from livecc_jax.produce.report.data import report_data
from livecc_jax.produce.report.estimate import estimate, summary
from livecc_jax.produce.report.page import write_report
from livecc_jax.produce.report.thumbnails import Thumbnails
from tests.support.produce import (
    NO_LANGUAGE,
    clips_of,
    rejections_of,
    run_produce,
    source_line,
    write_sources,
)

BIKES = str(Path(__file__).parents[3] / "data/clips/bbb_espeak_narration_30s.mp4")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    sources = write_sources(folder / "sources.jsonl", 20)
    first = json.dumps(source_line(31, title="<script>alert(1)</script>", video=BIKES))
    sources.write_text(f"{first}\n{sources.read_text()}no json\n")
    produced = run_produce(sources, folder / "out")
    return produced, write_report(produced), folder / "out"


def test_the_numbers_agree_with_the_files(reported):
    _, data, out = reported
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(data))
    clips, rejections = clips_of(out), rejections_of(out)
    assert (data["sources"], data["clips"], data["rejections"]) == (22, len(clips), len(rejections))
    assert sum(r["count"] for r in data["reasons"]) == len(rejections)
    for row in data["reasons"]:
        same = [r for r in rejections if (r["stage"], r["reason"]) == (row["stage"], row["reason"])]
        assert len(same) == row["count"]
    streams = [c[1]["content"][0]["text_stream"] for c in clips]
    seconds = sum(words[-1][1] - words[0][0] for words in streams)
    assert data["hours"] == pytest.approx(seconds / 3600, abs=1e-3)
    for found in data["distributions"].values():
        assert sum(found["counts"]) == len(clips)
    for name, digest in data["provenance"]["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


def test_what_did_not_run_is_said(reported):
    produced, data, _ = reported
    reasons = {row["filter"]: row["reason"] for row in data["not_run"]}
    assert reasons["text"] == "switched off"
    named = dataclasses.replace(produced, parameters=dataclasses.replace(
        produced.parameters, filters=("text", "prompts", "licence")))  # fmt: skip
    reasons = {row["filter"]: row["reason"] for row in report_data(named)["not_run"]}
    assert reasons["text"] == "nothing is named for it (text_model)"
    assert reasons["licence"] == "no licence and no list of opt-outs is named"


def test_the_page_shows_the_funnel_samples_and_thumbnails_and_no_markup_of_titles(reported):
    _, data, out = reported
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    for text in (
        "Funnel",
        "smaller than 480p",
        "line cannot be read",
        "data:image/jpeg;base64",
        "<svg",
    ):
        assert text in page
    assert data["provenance"]["files"]["annotations.jsonl"] in page


def test_every_stage_has_advice_for_when_it_drops_most():
    stages = {public_name(s) for phase in PHASES for s in phase.stages}
    assert stages <= set(REMEDIES)


def test_the_command_writes_everything_and_says_what_to_change(tmp_path, capsys):
    sources = write_sources(tmp_path / "sources.jsonl", 6)
    out = tmp_path / "out"
    assert main(["produce", "pretrain", str(sources), "--out", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert "annotations.jsonl: 0 clips" in said.out  # invented words are no English
    assert "language kept 0 of 5 sources (most often: not en enough)" in said.out
    assert "the published filter text did not run" in said.out
    assert "6 sources in 1 shards" in said.err
    names = {path.name for path in out.iterdir()}
    assert {"annotations.jsonl", "rejected.jsonl", "report.html", "report.json"} <= names


def test_an_estimate_scales_what_was_measured_and_names_the_bottleneck():
    cost = [
        {"stage": "cut", "seconds": 9.0, "cpu_seconds": 3.6, "records": 100},
        {"stage": "language", "seconds": 8.0, "cpu_seconds": 7.2, "records": 80},
        {"stage": "text", "seconds": 72.0, "cpu_seconds": 1.0, "records": 50},
    ]
    data = {"sources": 100, "cost": cost}
    rows = estimate(data, 1_000_000, 10, 2)
    found = {r.stage: (r.records, round(r.hours, 6), r.on, round(24 * r.days, 6)) for r in rows}
    assert found == {
        "cut": (1_000_000, 10.0, "cores", 1.0),
        "language": (800_000, 20.0, "cores", 2.0),
        "text": (500_000, 200.0, "accelerators", 100.0),
    }
    assert "4.2 days, bound by accelerators, most of all by text" in summary(rows, 1_000_000, 10, 2)[0]
    on_cores = estimate(data, 1_000_000, 100, 0)
    assert on_cores[0].stage == "language"  # the text model's processor time, as it would run there


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", "-1"], "--workers must be at least 1"),
        (["--runner", "DirectRunner"], "--runner DirectRunner is not offered"),
        (["--beam", "a=b"], "--beam and --exchange go with --runner"),
        (["--filters", "nothing"], "there is no filter 'nothing'"),
        (["--timeout", "0"], "--timeout"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, capsys, options, sentence):
    sources = write_sources(tmp_path / "sources.jsonl", 1)
    assert main(["produce", "sft", str(sources), "--out", str(tmp_path / "out"), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_parameters_of_the_run_are_in_the_report(reported):
    _, data, _ = reported
    assert data["provenance"]["not_published"].keys() == {"filters"}
    assert data["provenance"]["parameters"]["max_clip_ms"] == NO_LANGUAGE.max_clip_ms


def test_a_video_that_hangs_or_is_none_gives_no_pictures_and_ends_nothing(tmp_path, monkeypatch):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nfrom livecc_jax.media import video\nreal = video.probe\n"
        "video.probe = lambda p, *a: time.sleep(600) if 'hangs' in str(p) else real(p, *a)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hanging = tmp_path / "hangs.mp4"
    hanging.write_bytes(b"video")
    with Thumbnails(seconds=3.0) as pictures:
        assert pictures.of(str(tmp_path / "broken.mp4"), 0, 1000) == []
        assert pictures.of(str(tmp_path / "none.mp4"), 0, 1000) == []
        assert pictures.of(str(hanging), 0, 1000) == []
        shown = pictures.of(BIKES, 1000, 9000)
    assert [max(p.width, p.height) for p in shown] == [160] * 4
