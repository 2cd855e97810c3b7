"""Videos in buckets: a cache of limited size, stores that fail or stall, a full disk."""

import dataclasses
import errno
import os
import shutil
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from livecc_jax.data.files.cache import FileCache
from livecc_jax.data.files.remote import FileStat, file_stat
from livecc_jax.data.index.build import build_index
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import ConfigError, DataError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer

ROOT = Path(__file__).parents[3]


class Flaky(MemoryFileSystem):
    """A store that fails or hangs the first times that a file is opened."""

    protocol = "flaky"
    store = {}  # noqa: RUF012 (as in its base)
    failures = 0
    hangs = 0
    opened = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("flaky://"))

    def _open(self, path, *args, **kwargs):
        Flaky.opened += 1
        if Flaky.failures:
            Flaky.failures -= 1
            raise ConnectionError("the store is having a bad day")
        if Flaky.hangs:
            Flaky.hangs -= 1
            time.sleep(1.0)
        return super()._open(path, *args, **kwargs)


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture
def store():
    Flaky.failures = Flaky.hangs = Flaky.opened = 0
    store = fsspec.filesystem("flaky")
    for i in range(9):
        store.pipe(f"/b/{i}.bin", bytes([i]) * 1000)
    return store


def read(cache, i):
    address = f"flaky://b/{i}.bin"
    with cache.local(address, file_stat(address)) as path:
        assert Path(path).read_bytes() == bytes([i]) * 1000
        return path


def test_least_recently_used_files_are_evicted_first(store, tmp_path):
    cache = FileCache(tmp_path / "cache", 3500)
    paths = [read(cache, i) for i in range(3)]
    for age, path in zip((3, 9, 5), paths, strict=True):
        os.utime(path, (time.time() - age, time.time() - age))
    read(cache, 3)
    assert [os.path.exists(p) for p in paths] == [True, False, True]
    assert cache.size() == 3000
    opened = Flaky.opened
    read(cache, 0)
    assert Flaky.opened == opened  # from the cache
    with pytest.raises(MediaError, match=r"0\.bin: has 9999 bytes, more than the cache may hold"):
        cache.local("flaky://b/0.bin", FileStat(9999, 0)).__enter__()


def test_many_threads_stay_within_the_size_limit(store, tmp_path):
    """Files in use are not evicted, and the limit holds at every moment."""
    cache = FileCache(tmp_path / "cache", 3000)
    largest, failures, stop = [0], [], threading.Event()

    def watch():
        while not stop.is_set():
            largest[0] = max(largest[0], cache.size())

    def work(seed):
        try:
            for k in range(12):
                read(cache, (seed * 5 + k * 7) % 9)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    watcher = threading.Thread(target=watch)
    for t in (watcher, *threads):
        t.start()
    for t in threads:
        t.join()
    stop.set()
    watcher.join()
    assert failures == []
    assert 0 < largest[0] <= 3000
    assert len(list((tmp_path / "cache").glob("*.lock"))) <= 4


def test_a_failing_store_is_retried(store, tmp_path):
    cache = FileCache(tmp_path / "cache", 10_000, stall_timeout_s=0.3, first_wait_s=0.001)
    Flaky.failures, opened = 3, Flaky.opened
    read(cache, 0)
    assert Flaky.opened == opened + 4
    Flaky.failures = 99
    with pytest.raises(MediaError, match=r"1\.bin: the store failed 5 times.*bad day"):
        read(cache, 1)
    Flaky.failures = 0
    Flaky.hangs = 1
    read(cache, 2)
    with pytest.raises(MediaError, match=r"5 times.*received 1000 of 1001 bytes"):
        cache.local("flaky://b/3.bin", FileStat(1001, 0)).__enter__()
    with pytest.raises(MediaError, match=r"gone\.bin: cannot be read: No such file"):
        file_stat("flaky://b/gone.bin")
    with pytest.raises(ConfigError, match="nothing-like-it://"):
        file_stat("nothing-like-it://b/x")
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_full_disk_ends_in_one_sentence(store, tmp_path):
    """The cache first evicts what it can, and then reports the full disk."""
    disk_bytes = 10_000

    def allocate(handle, start, size):
        used = sum(p.stat().st_size for p in cache.folder.iterdir())
        if used + size > disk_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.posix_fallocate(handle, start, size)

    cache = FileCache(tmp_path / "cache", 10_000, allocate=allocate)
    paths = [read(cache, i) for i in range(2)]
    disk_bytes = 2000
    read(cache, 2)
    assert sum(map(os.path.exists, paths)) == 1
    disk_bytes = 500
    with pytest.raises(DataError, match=r"cache: the disk is full: flaky://b/3\.bin needs 1000 bytes"):
        read(cache, 3)


def test_rows_from_a_bucket(tmp_path, small_tokenizer):
    """Data is indexed and read from a store through a small cache; missing files are quarantined."""
    store = fsspec.filesystem("flaky")
    for name in ("bbb_espeak_narration_30s.mp4", "bikes.mp4", "frame.png"):
        store.pipe(f"/corpus/clips/{name}", (ROOT / "data/clips" / name).read_bytes())
    for name in ("windows", "qa"):
        text = (ROOT / f"data/annotations/{name}.jsonl").read_bytes()
        store.pipe(f"/corpus/annotations/{name}.jsonl", text)
    tokenizer, budget = open_tokenizer(small_tokenizer), PixelBudget.parse(8)
    names = [f"flaky://corpus/annotations/{name}.jsonl" for name in ("windows", "qa")]
    cache = {"cache": str(tmp_path / "cache"), "cache_gb": 0.0007}  # one video at a time
    index = build_index(names, tmp_path / "index", tokenizer, budget, root="flaky://corpus", **cache)
    assert index.location(0)[0] == names[0]
    shutil.copytree(ROOT / "data", tmp_path / "data")
    files = [tmp_path / f"data/annotations/{name}.jsonl" for name in ("windows", "qa")]
    build_index(files, tmp_path / "local", tokenizer, budget)
    remote_rows, local_rows = (
        RowSource(
            str(tmp_path / name), str(small_tokenizer), 2048, 99, 500, "mrope", "token", 1, 1, **cache
        )
        for name in ("index", "local")
    )
    for r in range(len(local_rows)):
        (remote_row, failed), (local_row, _) = remote_rows.row(r), local_rows.row(r)
        assert failed == []
        for name in remote_row:
            assert (remote_row[name] == local_row[name]).all(), name
    assert FileCache(cache["cache"]).size() <= 700_000
    store.rm("/corpus/clips/bbb_espeak_narration_30s.mp4")
    reopened = dataclasses.replace(remote_rows)
    reasons = [q.reason for r in range(len(reopened)) for q in reopened.row(r)[1]]
    assert reasons
    assert all("flaky://corpus/clips/bbb_espeak_narration_30s.mp4: cannot be" in x for x in reasons)
