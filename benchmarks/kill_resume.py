"""Checks that a run of several processes that is killed repeatedly equals an undisturbed run.

    python benchmarks/kill_resume.py --processes 4 --kills 20
    python benchmarks/kill_resume.py --processes 4 --kills 6 --elastic     # restarted as 4, 2 or 1

Trains a tiny model on the shipped clips, once undisturbed and once killed at random moments (SIGKILL of
all or of one process, SIGTERM to all or to one; at the start, in a step, in a save) and started again.
Compares the rows of every step, every loss, and the parameters. Exits with 1 if they differ, or if a
run in its steps did not save and stop within `SIGTERM_LIMITS` after a SIGTERM.
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
SIGTERM_LIMITS = 3, 5  # steps, or seconds: JAX polls once a second, and all processes must agree
EXIT_TIMEOUT = 30  # seconds for the processes that were not killed themselves to end
HEARTBEAT_TIMEOUT = 10  # seconds after which the other processes notice a killed one


def prepare(home: Path) -> None:
    """Writes a tokenizer and an index of the shipped clips."""
    from livecc_jax.data.index.build import build_index
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.text.open import open_tokenizer
    from livecc_jax.text.sentencepiece import train_sentencepiece

    train_sentencepiece(sorted((ROOT / "livecc_jax/timeline").glob("*.py")), home / "tok", 600)
    annotations = [ROOT / "data/annotations/windows.jsonl"]
    build_index(annotations, home / "index", open_tokenizer(home / "tok"), PixelBudget.parse(12))


def work(home: Path, run: Path, log: Path, steps: int, every: int) -> int:
    """Runs one process: trains, and logs the rows that it reads and the losses."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(home / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    from livecc_jax.parallel.processes import initialize_processes

    initialize_processes(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)

    from livecc_jax.data.rows.pipeline import Batch
    from livecc_jax.train.config import (
        CheckpointConfig,
        ComputeConfig,
        Config,
        DataConfig,
        OptimConfig,
    )  # fmt: skip
    from livecc_jax.train.hooks import Hook
    from livecc_jax.train.loop import train
    from livecc_jax.train.metrics import Progress
    from livecc_jax.train.preemption import PREEMPTED_EXIT_CODE, Preempted

    out = log.open("a", buffering=1)

    def write(**entry: object) -> None:
        out.write(json.dumps(entry) + "\n")

    class RowLogger(Hook):
        """Logs where the run resumed, and a digest of every row that this process reads."""

        resumed = False

        def before_batch(self, step: int) -> None:
            if not self.resumed:
                write(resumed=step - 1)
            self.resumed = True

        def after_batch(self, step: int, batch: Batch) -> None:
            digests = []
            for i in range(len(batch.rows["tokens"])):
                crc = 0
                for name in sorted(batch.rows):
                    crc = zlib.crc32(batch.rows[name][i].tobytes(), crc)
                digests.append(crc)
            write(rows=step, digests=digests)

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

    def report(p: Progress) -> None:
        write(
            step=p.step, time=time.time(), loss=p.loss.hex(), norm=p.grad_norm.hex(), goodput=p.goodput
        )

    try:
        train(config, report, hooks=[RowLogger()])
    except Preempted:
        write(saved=True)
        return PREEMPTED_EXIT_CODE
    write(finished=True)
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
        """The last step of this attempt that ended; 0 if none did."""
        return max((e["step"] for e in self.entries() if "step" in e), default=0)

    def last(self) -> float:
        """The time at which the last step of this attempt ended."""
        return max((e["time"] for e in self.entries() if "step" in e), default=0.0)

    def resumed(self) -> int | None:
        return next((e["resumed"] for e in self.entries() if "resumed" in e), None)

    def running(self) -> bool:
        return any(w.poll() is None for w in self.workers)

    def end(self) -> list[int]:
        """Waits for all processes; kills those that outlive EXIT_TIMEOUT. Returns their statuses."""
        deadline = time.time() + EXIT_TIMEOUT
        for worker in self.workers:
            try:
                worker.wait(max(0.1, deadline - time.time()))
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
            output = log.with_suffix(".err").open("w")
            workers.append(
                subprocess.Popen([str(c) for c in command], env=env, stdout=output, stderr=output)
            )
        self.attempts.append(Attempt(paths, workers))
        return self.attempts[-1]

    def rows(self) -> dict[int, set[tuple[int, ...]]]:
        """The rows of each step, sorted, of every attempt in which all processes read them."""
        by_step: dict[int, set[tuple[int, ...]]] = {}
        for attempt in self.attempts:
            by_process: dict[int, list[list[int]]] = {}
            for p in range(len(attempt.logs)):
                for e in attempt.entries(p):
                    if "rows" in e:
                        by_process.setdefault(e["rows"], []).append(e["digests"])
            for step, lists in by_process.items():
                if len(lists) == len(attempt.logs):
                    digests = sorted(digest for listed in lists for digest in listed)
                    by_step.setdefault(step, set()).add(tuple(digests))
        return by_step

    def metrics(self) -> dict[int, set[tuple[str, str]]]:
        """The losses and gradient norms of each step, of all attempts."""
        by_step: dict[int, set[tuple[str, str]]] = {}
        for attempt in self.attempts:
            for e in attempt.entries():
                if "step" in e:
                    by_step.setdefault(e["step"], set()).add((e["loss"], e["norm"]))
        return by_step

    def params(self) -> dict:
        from flax import traverse_util

        from livecc_jax.checkpoints.open import open_checkpoint

        return traverse_util.flatten_dict(open_checkpoint(self.path).load_params(), sep="/")


def wait_for_moment(
    run: Run, attempt: Attempt, moment: str, rng: random.Random, start_seconds: float
) -> str:
    """Waits until it is time to kill. Returns "start", "save" or "step"."""
    if moment == "start":
        time.sleep(rng.uniform(0.0, start_seconds))
        return "start"
    more_steps = rng.randint(0, run.every + 1)
    while attempt.running() and (attempt.resumed() is None or attempt.done() == 0):
        time.sleep(0.01)
    target = (attempt.resumed() or 0) + more_steps
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
    run: Run, processes: int, kills: int, elastic: bool, rng: random.Random, start_seconds: float
) -> list[dict]:
    """Kills the run so many times, then lets it finish. Returns an entry for each kill."""
    entries = []
    while True:
        count = rng.choice([c for c in (1, 2, 4) if c <= processes]) if elastic else processes
        attempt = run.start(count)
        start = time.time()
        if len(entries) == kills:
            statuses = [worker.wait() for worker in attempt.workers]
            assert statuses == [0] * count, statuses
            return entries
        kind, moment = rng.choice(KINDS), rng.choice(MOMENTS)
        moment = wait_for_moment(run, attempt, moment, rng, start_seconds)
        if not attempt.running():
            statuses = attempt.end()
            assert statuses == [0] * count, (statuses, attempt.logs[0])
            print(f"the run finished before kill {len(entries) + 1}: use more --steps", flush=True)
            return entries
        name, target = kind.split()
        at = attempt.done()
        victims = attempt.workers if target == "all" else [rng.choice(attempt.workers)]
        for victim in victims:
            if victim.poll() is None:
                victim.send_signal(getattr(signal, f"SIG{name}"))
        sent = time.time()
        statuses = attempt.end()
        entry = {
            "kill": len(entries) + 1, "kind": kind, "moment": moment, "processes": count,
            "going_on_s": round(attempt.last() - sent, 1),
            "resumed": attempt.resumed(), "at": at, "done": attempt.done(), "statuses": statuses,
            "ended_after_s": round(time.time() - sent, 1), "seconds": round(time.time() - start, 1),
        }  # fmt: skip
        entries.append(entry)
        print(json.dumps(entry), flush=True)


def is_sigterm_handled(entry: dict, steps: int) -> bool:
    """Returns whether a SIGTERM to a run in its steps ended it soon, with its state saved."""
    if entry["kind"].startswith("KILL") or not entry["at"]:
        return True
    saved = (
        all(status == 128 + signal.SIGTERM for status in entry["statuses"]) or entry["done"] == steps
    )
    max_steps, max_seconds = SIGTERM_LIMITS
    soon = entry["done"] - entry["at"] <= max_steps or entry["going_on_s"] <= max_seconds
    return saved and soon


def lost_steps(run: Run) -> list[int | None]:
    """The number of steps of each killed attempt that the next one repeated; None if it had none."""
    lost: list[int | None] = []
    for one, following in zip(run.attempts, run.attempts[1:]):
        begun = following.resumed()
        lost.append(None if begun is None or not one.done() else max(0, one.done() - begun))
    return lost


def compare(straight: Run, killed: Run, exact: bool) -> dict:
    """Compares rows, losses and parameters of the two runs."""
    import numpy as np

    expected, rows = straight.rows(), killed.rows()
    same_rows = set(rows) == set(expected)
    same_rows &= all(rows.get(k) == v and len(v) == 1 for k, v in expected.items())
    a, b = straight.metrics(), killed.metrics()
    worst = 0.0
    for step, metrics in b.items():
        (reference,) = a[step]
        for values in metrics:
            for x, y in zip(map(float.fromhex, values), map(float.fromhex, reference)):
                worst = max(worst, abs(x - y) / max(abs(y), 1e-9))
    left, right = straight.params(), killed.params()
    same_params = all(np.array_equal(left[k], right[k]) for k in left)
    difference = max(
        float(np.linalg.norm(left[k].astype(np.float64) - right[k]))
        / max(float(np.linalg.norm(left[k].astype(np.float64))), 1e-9)
        for k in left
    )
    result = {
        "steps": straight.steps,
        "every_step_read_the_same_rows": same_rows,
        "losses_bitwise_equal": worst == 0.0 and set(a) == set(b),
        "losses_relative_difference": worst,
        "parameters_bitwise_equal": same_params,
        "parameters_relative_difference": difference,
    }
    close = worst < TOLERANCE and difference < TOLERANCE
    if exact:
        close = worst == 0.0 and same_params
    result["good"] = same_rows and set(a) == set(b) and close
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--steps", type=int, default=0, help="of the run (default: three for each kill)"
    )
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
    start = time.time()
    straight = Run(home, "straight", steps, args.every)
    attempt = straight.start(args.processes)
    first = None
    while attempt.running() and first is None:
        time.sleep(0.02)
        first = time.time() - start if attempt.done() else None
    statuses = attempt.end() if not attempt.running() else [w.wait() for w in attempt.workers]
    assert statuses == [0] * args.processes, (statuses, attempt.logs[0].with_suffix(".err").read_text())
    print(f"undisturbed: {steps} steps in {time.time() - start:.0f} s", flush=True)

    killed = Run(home, "killed", steps, args.every)
    rng = random.Random(args.seed)
    entries = disturb(killed, args.processes, args.kills, args.elastic, rng, first or 10.0)
    result = compare(straight, killed, exact=not args.elastic)
    lost = lost_steps(killed)
    summary = {
        "processes": args.processes,
        "kills": len(entries),
        "survived": len(entries) if result["good"] else 0,
        "by_kind": {k: sum(t["kind"] == k for t in entries) for k in KINDS},
        "by_moment": {m: sum(t["moment"] == m for t in entries) for m in dict.fromkeys(MOMENTS)},
        "steps_lost": lost,
        "steps_lost_after_TERM": [
            n for n, t in zip(lost, entries) if t["kind"].startswith("TERM") and t["statuses"][0] == 143
        ],
        "SIGTERM_not_heeded": [t["kill"] for t in entries if not is_sigterm_handled(t, steps)],
        **result,
    }
    summary["good"] = result["good"] and not summary["SIGTERM_not_heeded"]
    (home / "result.json").write_text(json.dumps(summary | {"each": entries}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    if not args.out and summary["good"]:
        shutil.rmtree(home)
    return 0 if summary["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
