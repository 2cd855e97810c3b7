"""A whole run: the same bytes whoever works, nothing lost, restarts, changes, refusals."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from livecc_jax.errors import ConfigError, DataError, OutputError
from livecc_jax.produce.line import run as run_module
from livecc_jax.produce.line.local import InThisProcess, LocalPool
from livecc_jax.produce.line.run import ProduceLock
from livecc_jax.produce.line.workspace import WORK
from tests.support.disk import file_size_limit
from tests.support.produce import (
    NO_LANGUAGE,
    clips_of,
    outputs,
    rejections_of,
    run_produce,
    source_line,
    write_sources,
)

BIKES = Path(__file__).parents[3] / "data/clips/bikes.mp4"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(sources, output folder, what the run did) of 40 sources in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sources = write_sources(folder / "sources.jsonl", 40)
    return sources, folder / "out", run_produce(sources, folder / "out")


@pytest.mark.parametrize(("workers", "shards"), [(1, 0), (3, 0), (2, 1), (2, 17)])
def test_the_bytes_depend_on_neither_workers_nor_shards(undisturbed, tmp_path, workers, shards):
    sources, expected, _ = undisturbed
    run_produce(sources, tmp_path, runner=LocalPool(workers), shards=shards)
    assert outputs(tmp_path) == outputs(expected)


def test_clips_are_in_the_order_of_sources_and_the_last_line_holds_byte_offsets(undisturbed):
    _, out, _ = undisturbed
    places = [
        (clip[0]["content"][0]["video"], clip[0]["content"][0]["video_start"]) for clip in clips_of(out)
    ]
    numbers = [(int(video.rpartition("video")[2][:-4]), start) for video, start in places]
    assert numbers == sorted(numbers)
    assert len(numbers) > 20
    data = (out / "annotations.jsonl").read_bytes()
    offsets = json.loads(data.splitlines()[-1])
    assert [data[o:].split(b"\n")[0] for o in offsets] == data.splitlines()[:-1]


def test_whatever_goes_in_comes_out_or_has_a_reason(undisturbed):
    sources, out, produced = undisturbed
    clips, rejections, statistics = clips_of(out), rejections_of(out), produced.statistics
    count = len(sources.read_text().splitlines())
    whole = [r for r in rejections if r["clip"] is None]
    stretches = [r for r in rejections if r["clip"] is not None]
    # Every source was rejected whole, or each of its words is in one clip or one rejected stretch.
    by_video = {f"video{i}.mp4": 0 for i in range(count)}
    for clip in clips:
        by_video[clip[0]["content"][0]["video"].rpartition("/")[2]] += len(
            clip[1]["content"][0]["text_stream"]
        )
    for stretch in stretches:
        by_video[stretch["video"].rpartition("/")[2]] += stretch["words"]
    rejected_whole = {r["video"].rpartition("/")[2] for r in whole}
    for i in range(count):
        assert by_video[f"video{i}.mp4"] == (0 if f"video{i}.mp4" in rejected_whole else 150)
    assert (statistics.sources, statistics.clips) == (count, len(clips))
    assert sum(statistics.reasons.values()) == len(rejections)
    for before, after in zip(
        produced.statistics.funnel(produced.stages), produced.statistics.funnel(produced.stages)[1:]
    ):
        if before["unit"] == after["unit"]:
            assert before["after"] == after["before"]
    assert statistics.funnel(produced.stages)[-1]["after"] == len(clips)


def test_the_first_of_equal_clips_stays(undisturbed):
    _, out, _ = undisturbed
    dropped = [r for r in rejections_of(out) if r["stage"] == "duplicates"]
    assert dropped
    for rejection in dropped:
        number = int(rejection["video"].rpartition("video")[2][:-4])
        earlier = int(rejection["value"]["source"].rpartition("video")[2][:-4])
        assert earlier < number
        assert number - earlier == 3
        assert rejection["value"]["similarity"] >= 0.8


class _Stopped(Exception):
    """A run is stopped in the middle."""


class _StopsAfter(InThisProcess):
    """Stops a run after some units, as a kill would."""

    def __init__(self, units):
        super().__init__()
        self.left = units

    def run(self, line, phase, report):
        from livecc_jax.produce.line import local

        def counting(line, job, models, watched=None):
            from livecc_jax.produce.line.shard import Watched

            def begin(unit, stage):
                if stage in ("source", "language", "distinct") and self.left == 0:
                    raise _Stopped
                self.left -= stage in ("source", "language", "distinct")

            return real(line, job, models, Watched(begin))

        real, local.run_shard = local.run_shard, counting
        try:
            return super().run(line, phase, report)
        finally:
            local.run_shard = real


@pytest.mark.parametrize("units", [0, 1, 17, 43, 60])
def test_a_stopped_run_goes_on_and_does_only_what_is_missing(undisturbed, tmp_path, units):
    sources, expected, produced = undisturbed
    with pytest.raises(_Stopped):
        run_produce(sources, tmp_path, runner=_StopsAfter(units))
    again = run_produce(sources, tmp_path)
    assert sum(again.done.values()) == sum(produced.done.values()) - units
    assert outputs(tmp_path) == outputs(expected)
    assert sum(run_produce(sources, tmp_path).done.values()) == 0


RUN = """
import sys
from pathlib import Path
from livecc_jax.produce.line.local import LocalPool
from tests.support.produce import run_produce
run_produce(Path(sys.argv[1]), Path(sys.argv[2]), runner=LocalPool(2))
"""


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(undisturbed, tmp_path):
    sources, expected, _ = undisturbed
    rng = random.Random(3)
    command = [sys.executable, "-c", RUN, str(sources), str(tmp_path / "out")]
    for _ in range(2):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run_produce(sources, tmp_path / "out")
    assert outputs(tmp_path / "out") == outputs(expected)


def test_a_line_that_was_cut_short_by_a_kill_is_done_again(undisturbed, tmp_path):
    sources, expected, _ = undisturbed
    with pytest.raises(_Stopped):
        run_produce(sources, tmp_path, runner=_StopsAfter(5))
    [log] = (tmp_path / WORK).glob("words-*/*.log")
    data = log.read_bytes()
    log.write_bytes(data[: -len(data.splitlines()[-1]) // 2])
    run_produce(sources, tmp_path)
    assert outputs(tmp_path) == outputs(expected)


def test_a_changed_parameter_redoes_what_depends_on_it_and_says_so(undisturbed, tmp_path):
    sources, _, _ = undisturbed
    run_produce(sources, tmp_path)
    said = []
    changed = dataclasses.replace(NO_LANGUAGE, max_silence_ms=1000)
    produced = run_produce(sources, tmp_path, changed, say=said.append)
    assert produced.done["words"] == 0
    assert produced.done["clips"] > 0
    assert any("max_silence_ms: 3000 -> 1000" in sentence for sentence in said)
    assert any("done again, with what follows from it: clips" in sentence for sentence in said)
    fresh = tmp_path / "fresh"
    run_produce(sources, fresh, changed)
    assert outputs(tmp_path) == outputs(fresh)


def test_sources_that_are_added_leave_the_others_as_they_are(tmp_path):
    sources = write_sources(tmp_path / "sources.jsonl", 12)
    run_produce(sources, tmp_path / "out")
    write_sources(sources, 15)
    produced = run_produce(sources, tmp_path / "out")
    assert produced.done["words"] == 3
    run_produce(sources, tmp_path / "fresh")
    assert outputs(tmp_path / "out") == outputs(tmp_path / "fresh")


def test_a_video_that_disappears_half_way_becomes_a_rejection(tmp_path):
    """Its size has to be read from the file, which is there in the first run and not in the second."""
    video = tmp_path / "video.mp4"
    video.write_bytes(BIKES.read_bytes())
    line = source_line(1, video=str(video), width=None, height=None, duration=None)
    sources = tmp_path / "sources.jsonl"
    sources.write_text(
        json.dumps({k: v for k, v in line.items() if k != "words"} | {"captions": "none.vtt"}) + "\n"
    )
    run_produce(sources, tmp_path / "out")
    video.unlink()
    run_produce(sources, tmp_path / "out")
    [rejection] = rejections_of(tmp_path / "out")
    assert (rejection["stage"], rejection["reason"]) == ("select", "size is not known")


def test_two_runs_on_one_folder_are_refused(undisturbed, tmp_path, monkeypatch):
    from livecc_jax import directory_lock

    monkeypatch.setattr(directory_lock, "RELEASE_SECONDS", 0.1)
    lock = ProduceLock(tmp_path)
    try:
        with pytest.raises(ConfigError, match="produces data there"):
            run_produce(undisturbed[0], tmp_path)
    finally:
        lock.release()
    run_produce(undisturbed[0], tmp_path)


@pytest.mark.parametrize("limit", [200, 20_000, 60_000])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(undisturbed, tmp_path, limit):
    sources, expected, _ = undisturbed
    with (
        file_size_limit(limit),
        pytest.raises(OutputError, match=r"cannot be written: .*what is done is kept: make room"),
    ):
        run_produce(sources, tmp_path, shards=4)
    assert not (tmp_path / "annotations.jsonl").exists()
    assert not list(tmp_path.rglob("*.part"))
    run_produce(sources, tmp_path, shards=4)
    assert outputs(tmp_path) == outputs(expected)


def test_an_empty_list_is_one_sentence(tmp_path):
    (tmp_path / "sources.jsonl").write_text("")
    with pytest.raises(DataError, match=r"sources\.jsonl"):
        run_produce(tmp_path / "sources.jsonl", tmp_path / "out")


def test_results_of_other_parameters_are_removed_at_the_end(undisturbed, tmp_path):
    sources, _, _ = undisturbed
    run_produce(sources, tmp_path)
    run_produce(sources, tmp_path, dataclasses.replace(NO_LANGUAGE, max_silence_ms=1000))
    assert len(list((tmp_path / WORK).glob("clips-*"))) == 1
    assert run_module.STATE in os.listdir(tmp_path / WORK)
