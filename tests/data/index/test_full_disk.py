"""An index whose disk fills up: one sentence, nothing that looks like an index, and it continues."""

import re

import pytest

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

    whole = build("whole")
    arrays = sorted((home / "whole").iterdir())
    largest = max(path.stat().st_size for path in arrays)
    for limit in (10, 300, largest // 2, largest - 1):
        with file_size_limit(limit), pytest.raises(OutputError) as caught:
            build("index")
        assert re.fullmatch(r"\S+index\S*: cannot be written: File too large(; .*)?", str(caught.value))
        assert not (home / "index").exists()
    assert "run the same command again" in str(caught.value)
    assert build("index").digest == whole.digest
    for path in arrays:
        if path.suffix == ".npy":
            assert path.read_bytes() == (home / "index" / path.name).read_bytes()
    with file_size_limit(300), pytest.raises((OutputError, DataError)):
        build("index", overwrite=True)
    assert Index(home / "index").digest == whole.digest
