"""Videos are loaded once each, in order, and an interrupt loses no submitted batch."""

import pytest

from livecc_jax.errors import DataError
from livecc_jax.evaluate.run.prefetch import batch_loaded, one_behind, prefetch


def test_each_item_is_loaded_once_and_failures_do_not_fill_a_batch():
    loaded = []

    def load(item):
        loaded.append(item)
        if item == 3:
            raise DataError("no such video")
        return 10 * item

    batches = list(batch_loaded(prefetch(range(7), load, batch_size=2), 2))
    assert sorted(loaded) == list(range(7))
    assert [b.loaded for b in batches] == [[(0, 0), (1, 10)], [(2, 20), (4, 40)], [(5, 50), (6, 60)]]
    assert [[item for item, _ in b.failed] for b in batches] == [[], [3], []]


def test_an_interrupt_does_not_lose_the_item_before():
    def items():
        yield 1
        yield 2
        raise KeyboardInterrupt

    received = []
    with pytest.raises(KeyboardInterrupt):
        received.extend(one_behind(items()))
    assert received == [1, 2]
