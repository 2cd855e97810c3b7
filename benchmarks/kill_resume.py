"""A run of several processes, killed again and again, reads and learns what an undisturbed one does.

    python benchmarks/kill_resume.py --processes 4 --kills 20
    python benchmarks/kill_resume.py --processes 4 --kills 6 --elastic     # restarted as 4, 2 or 1

Trains a tiny model on the shipped clips, once undisturbed and once killed at random moments (SIGKILL of
all or of one process, SIGTERM to all or to one; at the start, in a step, in a save) and started again.
Compares the rows of every step, every loss, and the parameters; exits with 1 where they differ, and
where a SIGTERM to a run in its steps did not end it, saved, within `HEEDED`.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = ("KILL all", "KILL one", "TERM all", "TERM one")
MOMENTS = ("step", "step", "save", "start")
ROWS = 4  # a step, so that 1, 2 or 4 processes can share them
TOLERANCE = 1e-4  # on another number of processes, sums are in another order
HEEDED = 3, 5  # steps, or seconds of steps: jax looks for the signal once a second, and all must hear
PATIENCE = 30  # seconds for the processes that were not killed themselves to end


def prepare(home: Path) -> None:
    """A tokenizer, and an index of the shipped clips."""
    from livecc_jax.data.index.build import build_index
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.text.open import open_tokenizer
    from livecc_jax.text.sentencepiece import train_sentencepiece

    train_sentencepiece(sorted((ROOT / "livecc_jax/timeline").glob("*.py")), home / "tok", 600)
    listed = [ROOT / "data/annotations/windows.jsonl"]
    build_index(listed, home / "index", open_tokenizer(home / "tok"), PixelBudget.parse(12))


def work(home: Path, run: Path, log: Path, steps: int, every: int) -> int:
    """One process of a run: trains, and logs the rows it reads and the losses."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(home / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    from livecc_jax.parallel import processes

    processes.HEARTBEAT = 10
    processes.start_processes()

    from livecc_jax.train import loop
    from livecc_jax.train.config import (
        CheckpointConfig,
        ComputeConfig,
        Config,
        DataConfig,
        OptimConfig,
    )  # fmt: skip
    from livecc_jax.train.preempt import EXIT_CODE, Preempted

    out = log.open("a", buffering=1)

    def tell(**entry: object) -> None:
        out.write(json.dumps(entry) + "\n")

    made = loop.batches

    def logged(*args: object, first_step: int, **named: object):
        tell(resumed=first_step)
        for step, batch in enumerate(made(*args, first_step=first_step, **named), first_step + 1):
            digests = []
            for i in range(len(batch.rows["tokens"])):
                crc = 0
                for name in sorted(batch.rows):
                    crc = zlib.crc32(batch.rows[name][i].tobytes(), crc)
                digests.append(crc)
            tell(rows=step, digests=digests)
            yield batch

    loop.batches = logged
    config = Config(
        run=str(run), preset="tiny", tokenizer=str(home / "tok"), seed=3, log_every=1, max_steps=steps,
        data=DataConfig(
            index=str(home / "index"), tokens=1024, windows=24, targets=256, rows_per_step=ROWS,
            epochs=3 * steps,
        ),
        optim=OptimConfig(learning_rate=3e-3, warmup_ratio=0.2),
        compute=ComputeConfig(dtype="float32", remat="none"),
        checkpoint=CheckpointConfig(every=every, keep=3),
    )  # fmt: skip

    def report(p: loop.Progress) -> None:
        tell(
            step=p.step, time=time.time(), loss=p.loss.hex(), norm=p.grad_norm.hex(), goodput=p.goodput
        )

    try:
        loop.train(config, report)
    except Preempted:
        tell(saved=True)
        return EXIT_CODE
    tell(finished=True)
    return 0


@dataclass
class Attempt:
    """One start of the run."""

    logs: list[Path]
    workers: list[subprocess.Popen]

    def entries(self, process: int = 0) -> list[dict]:
        if not self.logs[process].exists():
            return []
        lines = self.logs[process].read_text().split("\n")[:-1]  # the last may be half written
        return [json.loads(line) for line in lines]

    def done(self) -> int:
        """The last step that ended, 0 for none of this attempt's."""
        return max((e["step"] for e in self.entries() if "step" in e), default=0)

    def last(self) -> float:
        """When the last step of this attempt ended."""
        return max((e["time"] for e in self.entries() if "step" in e), default=0.0)

    def resumed(self) -> int | None:
        return next((e["resumed"] for e in self.entries() if "resumed" in e), None)

    def running(self) -> bool:
        return any(w.poll() is None for w in self.workers)

    def end(self) -> list[int]:
        """Wait for all; statuses. What outlives PATIENCE is killed."""
        by = time.time() + PATIENCE
        for worker in self.workers:
            try:
                worker.wait(max(0.1, by - time.time()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        return [w.returncode for w in self.workers]


@dataclass
class Run:
    """A run with all its attempts."""

    home: Path
    name: str
    steps: int
    every: int
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.home / self.name

    def start(self, processes: int) -> Attempt:
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        logs = self.home / "logs"
        logs.mkdir(exist_ok=True)
        paths = [logs / f"{self.name}-{len(self.attempts)}-{p}.jsonl" for p in range(processes)]
        workers = []
        for p, log in enumerate(paths):
            env = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "TPU_SKIP_MDS_QUERY": "1",
                "JAX_NUM_CPU_DEVICES": "1",
                "XLA_FLAGS": "--xla_llvm_disable_expensive_passes=true",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(p),
            }
            command = [sys.executable, __file__, "--work", self.home, self.path, log]
            command += ["--steps", self.steps, "--every", self.every]
            said = log.with_suffix(".err").open("w")
            workers.append(
                subprocess.Popen([str(c) for c in command], env=env, stdout=said, stderr=said)
            )
        self.attempts.append(Attempt(paths, workers))
        return self.attempts[-1]

    def rows(self) -> dict[int, set[tuple[int, ...]]]:
        """Each step's rows, sorted, in every attempt in which all processes read them."""
        read: dict[int, set[tuple[int, ...]]] = {}
        for attempt in self.attempts:
            parts: dict[int, list[list[int]]] = {}
            for p in range(len(attempt.logs)):
                for e in attempt.entries(p):
                    if "rows" in e:
                        parts.setdefault(e["rows"], []).append(e["digests"])
            for step, lists in parts.items():
                if len(lists) == len(attempt.logs):
                    read.setdefault(step, set()).add(tuple(sorted(d for one in lists for d in one)))
        return read

    def figures(self) -> dict[int, set[tuple[str, str]]]:
        """Each step's loss and gradient norm, as often as it was done."""
        seen: dict[int, set[tuple[str, str]]] = {}
        for attempt in self.attempts:
            for e in attempt.entries():
                if "step" in e:
                    seen.setdefault(e["step"], set()).add((e["loss"], e["norm"]))
        return seen

    def params(self) -> dict:
        from flax import traverse_util

        from livecc_jax.checkpoints.open import open_checkpoint

        return traverse_util.flatten_dict(open_checkpoint(self.path).load_params(), sep="/")


def wait_for_moment(run: Run, attempt: Attempt, moment: str, rng: random.Random, took: float) -> str:
    """Return when it is time to kill; what was going on."""
    if moment == "start":
        time.sleep(rng.uniform(0.0, took))
        return "start"
    more = rng.randint(0, run.every + 1)
    while attempt.running() and (attempt.resumed() is None or attempt.done() == 0):
        time.sleep(0.01)
    target = (attempt.resumed() or 0) + more
    while attempt.running() and attempt.done() < target:
        time.sleep(0.005)
    if moment == "save":
        while attempt.running():
            if any(run.path.glob("*.orbax-checkpoint-tmp*")):
                time.sleep(rng.uniform(0, 0.05))
                return "save"
            time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.3))
    return "step"


def disturb(
    run: Run, processes: int, kills: int, elastic: bool, rng: random.Random, took: float
) -> list[dict]:
    """Kill the run so many times, then let it finish; what happened each time."""
    told = []
    while True:
        count = rng.choice([c for c in (1, 2, 4) if c <= processes]) if elastic else processes
        attempt = run.start(count)
        began = time.time()
        if len(told) == kills:
            statuses = [worker.wait() for worker in attempt.workers]
            assert statuses == [0] * count, statuses
            return told
        kind, moment = rng.choice(KINDS), rng.choice(MOMENTS)
        moment = wait_for_moment(run, attempt, moment, rng, took)
        if not attempt.running():
            statuses = attempt.end()
            assert statuses == [0] * count, (statuses, attempt.logs[0])
            print(f"the run finished before kill {len(told) + 1}: use more --steps", flush=True)
            return told
        sign, whom = kind.split()
        at = attempt.done()
        victims = attempt.workers if whom == "all" else [rng.choice(attempt.workers)]
        for victim in victims:
            if victim.poll() is None:
                victim.send_signal(getattr(signal, f"SIG{sign}"))
        sent = time.time()
        statuses = attempt.end()
        entry = {
            "kill": len(told) + 1, "kind": kind, "moment": moment, "processes": count,
            "going_on_s": round(attempt.last() - sent, 1),
            "resumed": attempt.resumed(), "at": at, "done": attempt.done(), "statuses": statuses,
            "ended_after_s": round(time.time() - sent, 1), "seconds": round(time.time() - began, 1),
        }  # fmt: skip
        told.append(entry)
        print(json.dumps(entry), flush=True)


def heeded(entry: dict, steps: int) -> bool:
    """Whether a SIGTERM ended a run that was in its steps, soon and with its state saved."""
    if entry["kind"].startswith("KILL") or not entry["at"]:
        return True
    saved = (
        all(status == 128 + signal.SIGTERM for status in entry["statuses"]) or entry["done"] == steps
    )
    steps_on, seconds_on = HEEDED
    return saved and (entry["done"] - entry["at"] <= steps_on or entry["going_on_s"] <= seconds_on)


def lost_steps(run: Run) -> list[int | None]:
    """Of each attempt that was killed: steps done that the next one did again; None if it did none."""
    lost: list[int | None] = []
    for one, following in zip(run.attempts, run.attempts[1:]):
        begun = following.resumed()
        lost.append(None if begun is None or not one.done() else max(0, one.done() - begun))
    return lost


def compare(straight: Run, killed: Run, exact: bool) -> dict:
    """Rows, losses and parameters of the two."""
    import numpy as np

    want, got = straight.rows(), killed.rows()
    rows = all(got.get(k) == want[k] and len(want[k]) == 1 for k in want) and set(got) == set(want)
    a, b = straight.figures(), killed.figures()
    worst = 0.0
    for step, figures in b.items():
        (reference,) = a[step]
        for figure in figures:
            for x, y in zip(map(float.fromhex, figure), map(float.fromhex, reference)):
                worst = max(worst, abs(x - y) / max(abs(y), 1e-9))
    left, right = straight.params(), killed.params()
    same = all(np.array_equal(left[k], right[k]) for k in left)
    apart = max(
        float(np.linalg.norm(left[k].astype(np.float64) - right[k]))
        / max(float(np.linalg.norm(left[k].astype(np.float64))), 1e-9)
        for k in left
    )
    found = {
        "steps": straight.steps,
        "every_step_read_the_same_rows": rows,
        "losses_bitwise_equal": worst == 0.0 and set(a) == set(b),
        "losses_relative_difference": worst,
        "parameters_bitwise_equal": same,
        "parameters_relative_difference": apart,
    }
    good = rows and set(a) == set(b)
    found["good"] = good and (
        worst == 0.0 and same if exact else worst < TOLERANCE and apart < TOLERANCE
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=0, help="of the run (default: three a kill)")
    parser.add_argument("--every", type=int, default=3, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--elastic", action="store_true", help="restart with another number of processes"
    )
    parser.add_argument("--out", help="where to leave the runs and result.json")
    parser.add_argument("--work", nargs=3, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps or 3 * args.kills
    if args.work:
        return work(*args.work, steps, args.every)

    home = Path(args.out or tempfile.mkdtemp(prefix="kill-resume-")).absolute()
    home.mkdir(parents=True, exist_ok=True)
    prepare(home)
    began = time.time()
    straight = Run(home, "straight", steps, args.every)
    attempt = straight.start(args.processes)
    first = None
    while attempt.running() and first is None:
        time.sleep(0.02)
        first = time.time() - began if attempt.done() else None
    statuses = attempt.end() if not attempt.running() else [w.wait() for w in attempt.workers]
    assert statuses == [0] * args.processes, (statuses, attempt.logs[0].with_suffix(".err").read_text())
    print(f"undisturbed: {steps} steps in {time.time() - began:.0f} s", flush=True)

    killed = Run(home, "killed", steps, args.every)
    rng = random.Random(args.seed)
    told = disturb(killed, args.processes, args.kills, args.elastic, rng, first or 10.0)
    found = compare(straight, killed, exact=not args.elastic)
    lost = lost_steps(killed)
    summary = {
        "processes": args.processes,
        "kills": len(told),
        "survived": len(told) if found["good"] else 0,
        "by_kind": {k: sum(t["kind"] == k for t in told) for k in KINDS},
        "by_moment": {m: sum(t["moment"] == m for t in told) for m in dict.fromkeys(MOMENTS)},
        "steps_lost": lost,
        "steps_lost_after_TERM": [
            n for n, t in zip(lost, told) if t["kind"].startswith("TERM") and t["statuses"][0] == 143
        ],
        "SIGTERM_not_heeded": [t["kill"] for t in told if not heeded(t, steps)],
        **found,
    }
    summary["good"] = found["good"] and not summary["SIGTERM_not_heeded"]
    (home / "result.json").write_text(json.dumps(summary | {"each": told}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    if not args.out and summary["good"]:
        shutil.rmtree(home)
    return 0 if summary["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
