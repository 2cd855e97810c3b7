"""How fast rows are built, and where the time goes."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass

from livecc_jax.data.files.timing import PARTS
from livecc_jax.data.rows.pipeline import RowSource, batches, steps_in

MANY = 1000  # rows that are enough for a measurement


@dataclass(frozen=True)
class Throughput:
    """Figures of a measurement.

    spent: seconds that building took, by part and "build" in all, added up over threads or workers.
    waited: seconds that the reader, which takes `step_seconds` a row between reads, waited.
    """

    rows: int
    frames: int
    seconds: float
    waited: float
    spent: Counter

    def lines(self) -> list[str]:
        """For a human."""
        build = self.spent["build"] or 1.0
        shares = {name: self.spent[name] / build for name in PARTS}
        shares["rest"] = max(0.0, 1 - sum(shares.values()))
        row, frame = build / max(1, self.rows), build / max(1, self.frames)
        return [
            f"{self.rows} rows in {self.seconds:.1f} s: {self.rows / self.seconds:.2f} rows/s, "
            f"{self.frames / self.seconds:.1f} frames/s",
            f"waited for {self.waited / self.seconds:.0%} of the time; "
            f"a row takes {row:.2f} s to build, {1000 * frame:.1f} ms a frame",
            "of building: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
        ]


def measure(
    source: RowSource, seconds: float, workers: int, threads: int, step_seconds: float = 0.0
) -> Throughput:
    """Read rows one by one for some seconds, from the first on, over again where there are few.

    The first rows are not counted: they are built while workers start and files are opened.
    """
    source = dataclasses.replace(source, epochs=source.epochs * -(-MANY // len(source)))
    warm = 2 * max(1, workers or threads)
    count = steps_in(source, 1)
    stream = batches(
        source,
        first_step=0,
        steps=count,
        rows_per_step=1,
        accumulate=1,
        workers=workers,
        threads=threads,
    )
    rows, waited, spent, began = 0, 0.0, Counter(), 0.0
    try:
        for number, batch in enumerate(stream):
            now = time.perf_counter()
            if number < warm:
                began = asked = now
                continue
            waited += now - asked
            rows += 1
            spent += batch.spent
            if now - began > seconds:
                break
            if step_seconds:
                time.sleep(step_seconds)
            asked = time.perf_counter()
        elapsed = time.perf_counter() - began
    finally:
        stream.close()
    return Throughput(rows, int(spent["frames"]), max(elapsed, 1e-9), waited, spent)
