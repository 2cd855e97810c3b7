"""Indexes chunks of lines in worker processes, with a bounded number of chunks in flight."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from livecc_jax.data.annotations.datasets import Annotations, open_annotations
from livecc_jax.data.index.chunks import ChunkIndexer, IndexSettings, LineChunk
from livecc_jax.errors import DataError
from livecc_jax.parallel.child_process import exit_with_parent
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.tokenizer import Tokenizer

CHUNKS_PER_WORKER = 2  # chunks in flight for each worker

Columns = dict[str, np.ndarray]


def index_chunks(
    files: list[Annotations],
    chunks: list[LineChunk],
    settings: IndexSettings,
    tokenizer: Tokenizer,
    work: Path,
    workers: int,
) -> Iterator[tuple[LineChunk, Columns]]:
    """Yields each chunk with its columns, in the order in which chunks are finished.

    Args:
        files: The annotation files.
        chunks: Chunks of their lines.
        settings: Settings of the index.
        tokenizer: The model's tokenizer.
        work: Folder for data that the processes share.
        workers: Number of worker processes; 0 works in this process.

    Raises:
        DataError: An annotation file is malformed, or a worker process died.
    """
    if not workers or len(chunks) < 2:
        indexer = ChunkIndexer(settings, tokenizer)
        for chunk in chunks:
            yield chunk, indexer.index(files[chunk.source], chunk)
        return
    # Workers open the files themselves but get the line offsets from here, so that the lines of a
    # large file are searched only once.
    tokenizer.save(work / "tokenizer")
    for number, file in enumerate(files):
        np.save(work / f"lines-{number}.npy", np.append(file.offsets, file.end))
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)),
        multiprocessing.get_context("spawn"),
        _start_worker,
        (settings, work, [f.path for f in files], os.getpid()),
    )
    try:
        waiting = iter(chunks)
        running: dict[Future[Columns], LineChunk] = {}
        while True:
            for chunk in waiting:
                running[pool.submit(_index_in_worker, chunk)] = chunk
                if len(running) >= CHUNKS_PER_WORKER * workers:
                    break
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise DataError(
            f"{work}: a worker process was killed (out of memory?); run the same command again to "
            "continue from here"
        ) from error
    except BaseException:
        # The results of running chunks are not needed any more, so do not wait for them.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """The state of a worker process: its indexer, and the annotation files it has opened."""

    def __init__(self, settings: IndexSettings, work: Path, names: list[str]) -> None:
        self._indexer = ChunkIndexer(settings, open_tokenizer(work / "tokenizer"))
        self._work, self._names = work, names
        self._files: dict[int, Annotations] = {}

    def index(self, chunk: LineChunk) -> Columns:
        source = chunk.source
        if source not in self._files:
            lines = np.load(self._work / f"lines-{source}.npy", mmap_mode="r")
            self._files[source] = open_annotations(self._names[source], (lines[:-1], int(lines[-1])))
        return self._indexer.index(self._files[source], chunk)


_worker: _Worker  # set once in each worker process, as a pool's tasks take no other state


def _start_worker(settings: IndexSettings, work: Path, names: list[str], parent: int) -> None:
    global _worker
    # Ctrl-C reaches every process of the terminal; only the parent reports it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    exit_with_parent(parent)
    _worker = _Worker(settings, work, names)


def _index_in_worker(chunk: LineChunk) -> Columns:
    return _worker.index(chunk)
