"""What tests of captions share: words in seconds, as a reader of the file would write them down."""

import pytest

from livecc_jax.produce.captions.read import parse_captions


@pytest.fixture
def words():
    """Returns [(start, end, text)] in seconds of a file's content."""

    def read(content, name="", **options):
        data = content if isinstance(content, bytes) else content.encode()
        found = parse_captions(data, name, **options)
        return [(start / 1000, end / 1000, text) for start, end, text in found.words]

    return read


@pytest.fixture
def texts(words):
    """Returns the words alone, joined by spaces."""
    return lambda content, name="", **options: " ".join(w[2] for w in words(content, name, **options))
