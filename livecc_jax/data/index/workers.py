"""Planning in other processes: a bounded number of stretches under way, results as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from livecc_jax.data.annotations.datasets import Annotations, open_annotations
from livecc_jax.data.index.shards import Planner, Settings, Stretch
from livecc_jax.errors import DataError
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.tokenizer import Tokenizer

AHEAD = 2  # stretches under way for each process

Columns = dict[str, np.ndarray]
_planner: Planner
_opened: dict[int, Annotations]
_names: list[str]
_lines: Path


def planned(
    files: list[Annotations],
    stretches: list[Stretch],
    settings: Settings,
    tokenizer: Tokenizer,
    work: Path,
    workers: int,
) -> Iterator[tuple[Stretch, Columns]]:
    """Each stretch with its columns, in whatever order they are finished.

    Args:
        files: the annotation files.
        stretches: of them.
        settings: of the index.
        tokenizer: the model's.
        work: folder for what processes share.
        workers: processes; 0 plans here.

    Raises:
        DataError: an annotation file is malformed, or a worker process died.
    """
    if not workers or len(stretches) < 2:
        planner = Planner(settings, tokenizer)
        for stretch in stretches:
            yield stretch, planner.plan(files[stretch.source], stretch)
        return
    # Workers open their own, and take where lines begin from here: a large file is searched once.
    tokenizer.save(work / "tokenizer")
    for number, file in enumerate(files):
        np.save(work / f"lines-{number}.npy", np.append(file.offsets, file.end))
    pool = ProcessPoolExecutor(
        min(workers, len(stretches)),
        multiprocessing.get_context("spawn"),
        _start,
        (settings, work, [f.path for f in files], os.getpid()),
    )
    try:
        waiting = iter(stretches)
        running: dict[Future[Columns], Stretch] = {}
        while True:
            for stretch in waiting:
                running[pool.submit(_work, stretch)] = stretch
                if len(running) >= AHEAD * workers:
                    break
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise DataError(
            f"{work}: a worker process was killed (out of memory?); the same command goes on from here"
        ) from error
    except BaseException:
        # What they are at is of no use any more: they shall not be waited for.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(settings: Settings, work: Path, names: list[str], parent: int) -> None:
    global _planner, _opened, _names, _lines
    # Ctrl-C reaches every process of the terminal: the parent says what there is to say.
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _planner = Planner(settings, open_tokenizer(work / "tokenizer"))
    _opened, _names, _lines = {}, names, work


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(stretch: Stretch) -> Columns:
    source = stretch.source
    if source not in _opened:
        lines = np.load(_lines / f"lines-{source}.npy", mmap_mode="r")
        _opened[source] = open_annotations(_names[source], (lines[:-1], int(lines[-1])))
    return _planner.plan(_opened[source], stretch)
