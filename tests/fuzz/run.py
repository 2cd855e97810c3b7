"""Runs the fuzzer: `python -m tests.fuzz.run [--seed N] [--inputs N] [--seconds S] [READER ...]`.

Each reader's inputs are read in a process of its own. Every fault is printed with the command that
repeats it; the exit status is 1 if there was one, or if time ran out first.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.check import ACCEPTED, FAULTS, HANG, REFUSED
from tests.fuzz.readers import READERS

START_SECONDS = 240.0  # for a process to import libraries and make good files, on a busy machine
ROOT = Path(__file__).parents[2]


class Run:
    """One run of the fuzzer over some readers.

    Args:
        seed: Seed of all inputs.
        deadline: When to stop, by `time.monotonic`.
        input_seconds: Most seconds an input may take.
        save: JSON lines file that faults are appended to, in the form of tests/fuzz/regressions; ""
            for none.
    """

    def __init__(self, seed: int, deadline: float, input_seconds: float, save: str) -> None:
        self.seed, self.deadline, self.input_seconds, self.save = seed, deadline, input_seconds, save
        self.counts: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()

    def read_inputs(self, name: str, first: int, stop: int) -> None:
        """Reads inputs first, ..., stop - 1 of a reader, in as many processes as hang or crash."""
        counts = self.counts.setdefault(name, Counter())
        while first < stop and time.monotonic() < self.deadline:
            first = self._one_process(name, first, stop, counts)

    def _one_process(self, name: str, first: int, stop: int, counts: Counter[str]) -> int:
        """Returns the number of the input at which the next process begins."""
        command = [sys.executable, "-m", "tests.fuzz.worker", name]
        command += [str(self.seed), str(first), str(stop), str(self.input_seconds)]
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
            )
            # The worker ends itself when an input takes too long; this is for one that cannot.
            timer = threading.Timer(max(1.0, self.deadline - time.monotonic()), process.kill)
            timer.start()
            is_ready = False
            for text in process.stdout:
                line = json.loads(text)
                if line.get("ready"):
                    is_ready = True
                    continue
                first = line["number"] + 1
                counts[line["kind"]] += 1
                if line["kind"] in FAULTS:
                    self._report(name, line)
            status = process.wait()
            timer.cancel()
            if status == 0 or time.monotonic() >= self.deadline:
                return first if status else stop
            errors.seek(0)
            text = errors.read().decode(errors="replace")
        if not is_ready:
            raise RuntimeError(f"the process of {name} could not begin:\n{text[-3000:]}")
        counts[HANG] += 1
        lines = [x for x in text.splitlines() if "livecc_jax" in x] or text.splitlines()
        kind = "took too long" if "Timeout" in text else f"the process ended with {status}"
        self._report(
            name, {"number": first, "kind": HANG, "reason": f"{kind}; {lines[0] if lines else ''}"}
        )
        return first + 1

    def _report(self, name: str, line: dict) -> None:
        place = f" [{line['place']}]" if line.get("place") else ""
        with self._lock:
            print(f"{name} {line.get('file', '')} {line['kind']}{place}: {line['reason']!s:.300}")
            print(
                f"    make fuzz SEED={self.seed} READERS={name} FIRST={line['number']} INPUTS=1",
                flush=True,
            )
            if self.save and "input" in line:
                kept = {"reader": name, "why": f"{line['kind']}{place}: {line['reason']}"} | line[
                    "input"
                ]
                with open(self.save, "a") as file:
                    file.write(json.dumps(kept) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.split("\n")[0])
    parser.add_argument(
        "readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; default all"
    )
    parser.add_argument(
        "--seed", type=int, help="seed of all inputs; default a new one, which is printed"
    )
    parser.add_argument("--inputs", type=int, default=6500, help="inputs of all readers together")
    parser.add_argument("--first", type=int, default=0, help="number of each reader's first input")
    parser.add_argument("--seconds", type=float, default=1800, help="time for everything")
    parser.add_argument("--input-seconds", type=float, default=30, help="time for one input")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time")
    parser.add_argument("--save", default="", help="file to which inputs with faults are appended")
    options = parser.parse_args(arguments)
    names = options.readers or list(READERS)
    if unknown := [n for n in names if n not in READERS]:
        parser.error(f"there is no reader {unknown[0]}")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    start = time.monotonic()
    run = Run(seed, start + options.seconds, options.input_seconds, options.save)
    total = sum(READERS[n].share for n in names)
    wanted = {n: max(1, round(options.inputs * READERS[n].share / total)) for n in names}
    with ThreadPoolExecutor(options.jobs) as pool:
        slowest = sorted(names, key=lambda n: READERS[n].fast)
        jobs = [
            pool.submit(run.read_inputs, n, options.first, options.first + wanted[n]) for n in slowest
        ]
        for job in jobs:
            job.result()
    return _summary(run, names, sum(wanted.values()), time.monotonic() - start)


def _summary(run: Run, names: list[str], wanted: int, seconds: float) -> int:
    columns = ("inputs", REFUSED, ACCEPTED, *FAULTS)
    print(f"{'reader':12}" + "".join(f"{c:>11}" for c in columns))
    rows = {n: run.counts.get(n, Counter()) for n in names}
    rows["all"] = sum(rows.values(), Counter())
    for name, counts in rows.items():
        numbers = (counts.total(), *(counts[c] for c in columns[1:]))
        print(f"{name:12}" + "".join(f"{n:11,}" for n in numbers))
    done, faults = rows["all"].total(), sum(rows["all"][kind] for kind in FAULTS)
    late = f"; time ran out before the other {wanted - done:,}" if done < wanted else ""
    print(f"seed {run.seed}: {done:,} inputs in {seconds:.0f} s, {faults} faults{late}")
    return int(faults > 0 or done < wanted)


if __name__ == "__main__":
    sys.exit(main())
