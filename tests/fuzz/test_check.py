"""The fuzzer notices what it is there to notice."""

import time

import pytest

from livecc_jax.errors import DataError
from tests.fuzz import check, regressions, run
from tests.fuzz.inputs import Input, Inputs
from tests.fuzz.reader import Reader, all_files


def reader_of(read):
    def prepare(folder):
        (folder / "file").write_text("[1, 2]")

    def differs(folder, file, value):
        return "" if value == (folder / file).read_bytes() else "other bytes"

    return Reader("made", prepare, all_files, read, differs, is_text=True)


def refuse(folder, file):
    raise DataError("refused")


def fail(folder, file):
    raise KeyError("a bug")


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda folder, file: (folder / file).read_bytes(), check.ACCEPTED),
        (lambda folder, file: b"other", check.DIFFERENT),
        (refuse, check.REFUSED),
        (fail, check.TRACEBACK),
    ],
)
def test_outcomes(read, kind, tmp_path):
    reader = reader_of(read)
    reader.prepare(tmp_path)
    assert check.check(reader, tmp_path, Input("file", b"[3]")).kind == kind
    assert (tmp_path / "file").read_text() == "[1, 2]"


def test_inputs_are_the_same_for_a_seed_and_can_be_kept(tmp_path):
    reader = reader_of(refuse)
    reader.prepare(tmp_path)
    first, again, other = (Inputs(reader, tmp_path, seed) for seed in (1, 1, 2))
    assert [first[n] for n in range(20)] == [again[n] for n in reversed(range(20))][::-1]
    assert [first[n] for n in range(20)] != [other[n] for n in range(20)]
    good = bytes(range(256)) * 90
    for damaged in (b"short", good[:9000] + b"xyz" + good[9001:], good[:-1], good * 2):
        kept = regressions.describe(good, Input("file", damaged))
        (tmp_path / "file").write_bytes(good)
        assert regressions.restore(kept, tmp_path).data == damaged


def test_a_hang_is_found_and_the_next_input_is_read(monkeypatch, capsys):
    """The real worker, in which no input can be read in so little time."""
    monkeypatch.setattr(run.subprocess, "Popen", _worker_that_sleeps(run.subprocess.Popen))
    made = run.Run(seed=1, deadline=time.monotonic() + 60, input_seconds=1, save="")
    made.read_inputs("json", 0, 2)
    assert made.counts["json"] == {check.HANG: 2}
    assert "took too long" in capsys.readouterr().out


def _worker_that_sleeps(popen):
    program = (
        "import faulthandler, sys, time; print('{\"ready\": true}', flush=True);"
        "faulthandler.dump_traceback_later(0.2, exit=True); time.sleep(60)"
    )

    def start(command, **options):
        return popen([command[0], "-c", program], **options)

    return start
