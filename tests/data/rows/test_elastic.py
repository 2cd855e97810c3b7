"""Rows do not depend on processes: fewer continue where more stopped, and workers may be killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from livecc_jax.data.index.build import build_index
from livecc_jax.data.rows.pipeline import RowSource, batches
from livecc_jax.data.rows.prefetch import prefetch
from livecc_jax.errors import DataError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer

ROOT = Path(__file__).parents[3]
ROWS, STEPS = 4, 4

CHILD = """
import hashlib, json, sys
from livecc_jax.data.rows.pipeline import RowSource, batches

def main():
    source, how = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    for batch in batches(RowSource(**source), rows_per_step=4, accumulate=1, threads=1, **how):
        rows = [hashlib.sha256(b"".join(batch.rows[k][i].tobytes() for k in sorted(batch.rows)))
                for i in range(len(batch.rows["tokens"]))]
        print(" ".join(row.hexdigest() for row in rows), flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, small_tokenizer):
    """The inputs of a child process, and the digest of every row."""
    import hashlib

    home = tmp_path_factory.mktemp("elastic")
    files = [ROOT / f"data/annotations/{name}.jsonl" for name in ("windows", "qa")]
    tokenizer = open_tokenizer(small_tokenizer)
    build_index(files, home / "index", tokenizer, PixelBudget.parse(8))
    (home / "child.py").write_text(CHILD)
    source = {
        "index": str(home / "index"), "tokenizer_path": str(small_tokenizer), "tokens": 640,
        "windows": 24, "targets": 200, "positions": "mrope", "weighting": "token", "seed": 5,
        "epochs": 9,
    }  # fmt: skip
    rows = RowSource(**source)
    assert len(rows) >= ROWS * STEPS
    built = [rows.row(i)[0] for i in range(ROWS * STEPS)]
    data = [b"".join(row[k].tobytes() for k in sorted(row)) for row in built]
    return home, source, [hashlib.sha256(row).hexdigest() for row in data]


def start(home, source, **how):
    command = [
        sys.executable, "-X", "faulthandler", home / "child.py", json.dumps(source), json.dumps(how)
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and what it starts would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_four_processes_stop_and_two_continue(home):
    home, source, digests = home
    children = {
        (4, p): start(home, source, first_step=0, steps=2, process=p, processes=4) for p in range(4)
    } | {(2, p): start(home, source, first_step=2, steps=4, process=p, processes=2) for p in range(2)}
    outputs = {}
    for key, child in children.items():
        out, err = child.communicate()
        assert child.returncode == 0, err
        outputs[key] = [line.split() for line in out.splitlines()]
    for processes, steps in ((4, range(2)), (2, range(2, 4))):
        for step in steps:
            rows = [r for p in range(processes) for r in outputs[processes, p][step - steps.start]]
            assert rows == digests[ROWS * step : ROWS * (step + 1)]


def still_running(pids):
    return psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=20)[1]


def test_a_killed_worker_is_replaced_and_ctrl_c_ends_all(home):
    home, source, digests = home
    # So many steps that it cannot have finished before it is stopped; the first rows stay the same.
    child = start(home, source | {"epochs": 400}, first_step=0, steps=150, workers=1)
    lines = [child.stdout.readline().split()]
    workers = psutil.Process(child.pid).children(recursive=True)
    victim = next(w for w in workers if "spawn_main" in " ".join(w.cmdline()))
    victim.kill()
    lines += [child.stdout.readline().split() for _ in range(STEPS - 1)]
    assert [row for line in lines for row in line] == digests
    processes = [w.pid for w in psutil.Process(child.pid).children(recursive=True)]
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    try:
        _, err = child.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)  # prints its stack
        pytest.fail(child.communicate(timeout=60)[1])
    assert child.returncode == -signal.SIGINT, err
    assert err.count("KeyboardInterrupt\n") <= 1, err  # only the main process reports
    assert not still_running([*processes, victim.pid])


def test_threads_end_with_their_iterator(home):
    """When it is closed early, when a row fails, and when workers are killed repeatedly."""
    _, source, _ = home
    earlier = set(threading.enumerate())
    stream = batches(
        RowSource(**source), first_step=0, steps=STEPS, rows_per_step=ROWS, accumulate=1, threads=3
    )
    next(stream)
    assert any(t.name.startswith("grain") for t in threading.enumerate())
    stream.close()

    def fails(i):
        if i == 2:
            raise DataError("row 2 cannot be built")
        return np.zeros(1)

    with pytest.raises(DataError, match="row 2 cannot be built"):
        list(prefetch(fails, 9, 3, 0))

    def dies(i):
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9.")

    with pytest.raises(DataError, match=r"killed 4 times over row 0 .* fewer data\.workers"):
        list(prefetch(dies, 9, 1, 0))
    deadline = time.monotonic() + 10
    while {t for t in threading.enumerate() if t.name.startswith("grain")} - earlier:
        assert time.monotonic() < deadline
