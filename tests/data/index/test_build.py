"""Building an index: one that is killed continues where it was, and leaves no process behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.columns import COLUMNS
from livecc_jax.data.index.reader import Index
from livecc_jax.media.budget import PixelBudget

ROOT = Path(__file__).parents[3]
BUDGET = PixelBudget.parse(12)
NARRATION = json.loads((ROOT / "data/annotations/narration.jsonl").read_text().splitlines()[0])
CHUNK_LINES = 4

CHILD = f"""
import signal
import sys
from livecc_jax.data.index.build import build_index
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer

def report(done, total):
    print(done, flush=True)
    if done >= 12:
        signal.pause()  # until it is killed: a busy machine must not let it finish first

if __name__ == "__main__":
    build_index(
        sys.argv[3:], sys.argv[1], open_tokenizer(sys.argv[2]), PixelBudget.parse("12"), workers=2,
        progress=report, chunk_lines={CHUNK_LINES},
    )
"""


def assert_equal_indexes(a, b):
    """All columns are equal, and the digests, which leave out modification times."""
    for name in COLUMNS:
        np.testing.assert_array_equal(np.load(a / f"{name}.npy"), np.load(b / f"{name}.npy"), name)
    assert (a / "rejected.jsonl").read_bytes() == (b / "rejected.jsonl").read_bytes()
    assert Index(a).digest == Index(b).digest


def test_a_killed_build_continues(home, template, small_tokenizer, tmp_path):
    """After SIGKILL, finished chunks are not indexed again, and the index is the same."""
    path = home / "annotations/many.jsonl"
    lines = [json.dumps(NARRATION), '[{"role": "user", "content": 3}]'] * 24
    path.write_text("\n".join(lines) + "\n")
    build_index([path], tmp_path / "straight", template.tokenizer, BUDGET, chunk_lines=CHUNK_LINES)
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, tmp_path / "child.py", tmp_path / "index", small_tokenizer, path]
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    done = [int(child.stdout.readline()) for _ in range(3)]
    workers = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(child.pid)], capture_output=True, text=True
    ).stdout.split()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert done == [4, 8, 12]
    assert not (tmp_path / "index").exists()
    reports = []
    build_index(
        [path], tmp_path / "index", template.tokenizer, BUDGET, chunk_lines=CHUNK_LINES,
        progress=lambda done, total: reports.append(done),
    )  # fmt: skip
    assert reports[0] >= 12
    assert reports[-1] == len(lines)
    assert_equal_indexes(tmp_path / "straight", tmp_path / "index")
    index = Index(tmp_path / "index")  # of twelve chunks
    for i in (0, 1, len(index) // 2, len(index) - 1):
        assert index.encoded_example(i, template, MediaFiles()).tokens == index.tokens[i]
        assert index.location(i)[1] == 2 * i + 1
    assert not list(tmp_path.glob(".*partial"))
    # The workers ended with their parent.
    for _ in range(50):
        if not any(Path(f"/proc/{w}").exists() for w in workers):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"workers {workers} are still there")
