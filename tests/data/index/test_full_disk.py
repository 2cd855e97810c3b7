"""An index whose disk fills up: one sentence, nothing that looks like an index, and it continues."""

import resource

import pytest

from livecc_jax.data.files.timestamps import TimestampCache
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.reader import Index
from livecc_jax.errors import DataError, OutputError
from livecc_jax.media.budget import PixelBudget
from tests.support.disk import file_size_limit

BUDGET = PixelBudget.parse(12)


def test_an_index_that_finds_no_room_is_continued(home, template):
    def build(name, **options):
        paths = [home / f"annotations/{stem}.jsonl" for stem in ("windows", "qa", "narration")]
        return build_index(
            paths, home / name, template.tokenizer, BUDGET, row_tokens=300, chunk_lines=2,
            timestamps=home / "timestamps.sqlite", **options,
        )  # fmt: skip

    # Kept open, so that SQLite's own small files exist before there is no room for them, whenever the
    # garbage collector closes the connection of a build.
    timestamps = TimestampCache(home / "timestamps.sqlite")
    whole = build("whole")
    arrays = sorted((home / "whole").iterdir())
    too_large = rf"{home}/\S*index\S*: cannot be written: File too large"
    for limit in (10, 300, 2000):
        with file_size_limit(limit), pytest.raises(OutputError, match=f"{too_large}$"):
            build("index")
        assert not list(home.glob("*index*"))
        assert not (home / ".index.partial").exists()  # nothing is finished, so nothing is kept

    def full_after(lines):
        def progress(done, total):
            if done >= lines:
                before = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))

        return progress

    kept = "what has been indexed is kept: make room and run the same command again"
    unlimited = resource.RLIM_INFINITY
    for lines in (2, 4):
        with file_size_limit(unlimited), pytest.raises(OutputError, match=f"{too_large}; {kept}$"):
            build("index", progress=full_after(lines))
        assert not (home / "index").exists()
    assert build("index").digest == whole.digest
    for path in arrays:
        if path.suffix == ".npy":
            assert path.read_bytes() == (home / "index" / path.name).read_bytes()
    with file_size_limit(300), pytest.raises((OutputError, DataError)):
        build("index", overwrite=True)
    assert Index(home / "index").digest == whole.digest
    assert timestamps.path == str(home / "timestamps.sqlite")
