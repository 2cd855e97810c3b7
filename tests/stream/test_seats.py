"""How many turns a tick takes, and in which rows."""

import pytest

from livecc_jax.stream.scheduler import FULL, seated, taken


def test_rows_of_a_tick_lie_with_their_streams():
    assert seated([0, 0, 0], 1, 8) == ([0, 1, 2], 4)
    assert seated([0, 0, 0], 1, 3) == ([0, 1, 2], 3)
    assert seated([0], 1, 8, least=2) == ([0], 2)
    assert seated([0], 1, 1, least=2) == ([0], 1)
    assert seated([1, 0, 1, 1], 2, 3) == ([3, 0, 4, 5], 6)
    assert seated([1], 2, 3) == ([1], 2)


@pytest.mark.parametrize(("most", "least"), [(28, 1), (32, 1), (5, 1), (24, 2), (1, 2)])
def test_ticks_are_nearly_full_and_leave_nobody(most, least):
    for turns in range(1, 2 * most):
        left, ticks = turns, 0
        while left:
            now = taken(left, most, least)
            assert 1 <= now <= min(left, most)
            _, rows = seated([0] * now, 1, most, least)
            assert now >= FULL * rows or rows == min(least, most)
            assert taken(now, most, least) == now
            left, ticks = left - now, ticks + 1
        assert ticks <= 2 + most.bit_length()
    assert [taken(n, 28) for n in (6, 7, 8, 15, 17, 24, 25, 60)] == [4, 7, 8, 15, 16, 16, 25, 28]
