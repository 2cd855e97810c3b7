"""`livecc produce` killed at random moments, and on other workers: are the results the same bytes?

    python benchmarks/produce_kills.py --kills 20 --out DIR
    python benchmarks/produce_kills.py --kills 20 --out DIR --runner FnApiRunner     # where Beam is

A list of invented sources is first produced undisturbed. Then it is produced with 1, 2 and 4 workers,
and in one folder by runs that are killed (SIGKILL, with all their processes) at random moments until
one ends. Units that were finished before a kill are counted in the logs; the sum of what all runs did
must be the number of units, so that none was done twice. Moments are drawn over the time that an
undisturbed run takes; a run that ends before its moment counts as no kill, and a new folder is begun.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.produce import write_sources

RUN = """
import sys
from pathlib import Path
from livecc_jax.produce.line.local import LocalPool
from tests.support.produce import run_produce
sources, out, workers, runner = sys.argv[1:]
if runner:
    from livecc_jax.produce.line.beam import BeamRunner
    runner = BeamRunner(runner, workers=int(workers))
produced = run_produce(Path(sources), Path(out), runner=runner or LocalPool(int(workers)))
print(sum(produced.done.values()))
"""


def start(sources, out, workers, runner):
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(sources), str(out), str(workers), runner],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


def digests(out):
    names = ("annotations.jsonl", "rejected.jsonl")
    return [hashlib.sha256((out / name).read_bytes()).hexdigest()[:16] for name in names]


def finished_units(out):
    """Keys of all units in logs and finished files, by phase and shard."""
    found = set()
    for path in out.glob("work/*-*/*"):
        if path.suffix in (".log", ".jsonl"):
            lines = path.read_bytes().split(b"\n")[:-1]
            for line in lines[path.suffix == ".jsonl" :]:
                found.add((path.parent.name, path.stem, json.loads(line)["key"]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sources", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runner", default="", help="Beam's runner; none is the pool of processes")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out = Path(args.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sources = write_sources(out / "sources.jsonl", args.sources)
    began = time.monotonic()
    process = start(sources, out / "undisturbed", args.workers, "")
    units = int(process.communicate()[0])
    expected = digests(out / "undisturbed")
    print(f"undisturbed: {units} units, {expected}", flush=True)
    for workers in (1, 2, 4):
        began = time.monotonic()
        start(sources, out / f"w{workers}", workers, args.runner).communicate()
        same = digests(out / f"w{workers}") == expected
        name = args.runner or "pool"
        print(f"{name}, {workers} workers: {'same' if same else 'OTHER'} bytes", flush=True)
        if workers == args.workers:
            seconds = time.monotonic() - began
    rng, kills, rounds, redone = random.Random(args.kills), 0, 0, 0
    while kills < args.kills:
        folder, before = out / f"killed{rounds}", set()
        rounds += 1
        while True:
            moment = rng.uniform(0.1, 1.0) * seconds if kills < args.kills else 600
            process = start(sources, folder, args.workers, args.runner)
            try:
                process.wait(moment)
                assert process.returncode == 0
                did = int(process.communicate()[0])
                redone += did + len(before) - units
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                now = finished_units(folder)
                assert before <= now, "a finished unit was lost"
                before = now
        assert digests(folder) == expected, folder
        print(f"after {kills} kills in {rounds} folders: same bytes", flush=True)
    result = {"kills": kills, "folders": rounds, "units": units, "units_done_twice": redone}
    print(json.dumps(result | {"runner": args.runner or "pool", "workers": args.workers}))


if __name__ == "__main__":
    main()
