"""Measures how fast rows are built, and where the time goes."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass

from livecc_jax.data.files.timing import SECTIONS
from livecc_jax.data.rows.pipeline import RowSource, batches, count_steps

MIN_ROWS = 1000  # enough rows for a measurement


@dataclass(frozen=True)
class Throughput:
    """Results of a measurement.

    Attributes:
        rows: Number of rows read.
        frames: Number of frames that they show.
        seconds: Duration of the measurement in seconds.
        waiting: Seconds for which the reader waited for rows.
        timings: Seconds that building took, by section and under "build", summed over threads or
            workers.
    """

    rows: int
    frames: int
    seconds: float
    waiting: float
    timings: Counter

    def lines(self) -> list[str]:
        """Returns the results as lines of text."""
        build = self.timings["build"] or 1.0
        shares = {name: self.timings[name] / build for name in SECTIONS}
        shares["rest"] = max(0.0, 1 - sum(shares.values()))
        row_seconds, frame_seconds = build / max(1, self.rows), build / max(1, self.frames)
        return [
            f"{self.rows} rows in {self.seconds:.1f} s: {self.rows / self.seconds:.2f} rows/s, "
            f"{self.frames / self.seconds:.1f} frames/s",
            f"waited for {self.waiting / self.seconds:.0%} of the time; "
            f"a row takes {row_seconds:.2f} s to build, {1000 * frame_seconds:.1f} ms a frame",
            "of building: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
        ]


def measure(
    source: RowSource, seconds: float, workers: int, threads: int, step_seconds: float = 0.0
) -> Throughput:
    """Reads rows one by one for a number of seconds, several times over when there are few.

    The first rows are not counted: they are built while workers start and files are opened.

    Args:
        source: Builds the rows.
        seconds: Duration of the measurement in seconds.
        workers: Number of worker processes that build rows; 0 builds in threads.
        threads: Rows that are built in parallel in this process, when there are no workers.
        step_seconds: Seconds that the reader takes for a row, as a training step would.
    """
    source = dataclasses.replace(source, epochs=source.epochs * -(-MIN_ROWS // len(source)))
    warmup_rows = 2 * max(1, workers or threads)
    stream = batches(
        source,
        first_step=0,
        steps=count_steps(source, 1),
        rows_per_step=1,
        accumulate=1,
        workers=workers,
        threads=threads,
    )
    rows, waiting, timings, start = 0, 0.0, Counter(), 0.0
    try:
        for number, batch in enumerate(stream):
            now = time.perf_counter()
            if number < warmup_rows:
                start = request_time = now
                continue
            waiting += now - request_time
            rows += 1
            timings += batch.timings
            if now - start > seconds:
                break
            if step_seconds:
                time.sleep(step_seconds)
            request_time = time.perf_counter()
        elapsed = time.perf_counter() - start
    finally:
        stream.close()
    return Throughput(rows, int(timings["frames"]), max(elapsed, 1e-9), waiting, timings)
