"""How many turns an engine step takes, which ones, and in which batch slots."""

import pytest

from livecc_jax.stream.scheduler import MIN_FILL, assign_slots, turns_in_step
from tests.support.streaming import QUERY, fake_engine, frames, options


def test_batch_slots_are_on_the_group_of_their_stream():
    assert assign_slots([0, 0, 0], 1, 8) == ([0, 1, 2], 4)
    assert assign_slots([0, 0, 0], 1, 3) == ([0, 1, 2], 3)
    assert assign_slots([0], 1, 8, min_rows=2) == ([0], 2)
    assert assign_slots([0], 1, 1, min_rows=2) == ([0], 1)
    assert assign_slots([1, 0, 1, 1], 2, 3) == ([3, 0, 4, 5], 6)
    assert assign_slots([1], 2, 3) == ([1], 2)


@pytest.mark.parametrize(("max_rows", "min_rows"), [(28, 1), (32, 1), (5, 1), (24, 2), (1, 2)])
def test_steps_are_nearly_full_and_take_all_turns(max_rows, min_rows):
    for turns in range(1, 2 * max_rows):
        waiting, steps = turns, 0
        while waiting:
            taken = turns_in_step(waiting, max_rows, min_rows)
            assert 1 <= taken <= min(waiting, max_rows)
            _, rows = assign_slots([0] * taken, 1, max_rows, min_rows)
            assert taken >= MIN_FILL * rows or rows == min(min_rows, max_rows)
            assert turns_in_step(taken, max_rows, min_rows) == taken
            waiting, steps = waiting - taken, steps + 1
        assert steps <= 2 + max_rows.bit_length()
    sizes = [turns_in_step(n, 28) for n in (6, 7, 8, 15, 17, 24, 25, 60)]
    assert sizes == [4, 7, 8, 15, 16, 16, 25, 28]


def test_a_step_takes_what_fills_it_and_the_most_urgent_first():
    """The others come next; all questions go together, because their padding costs little."""
    fake = fake_engine(max_conversations=6, max_batch=8)
    streams = [fake.open(QUERY, options("mrope")) for _ in range(6)]
    for i, stream in enumerate(streams[:5]):
        stream.push(frames(0), captured=9.0 - i)
    first, second = ([who for who, _ in fake.step()] for _ in range(2))
    assert first == streams[4:0:-1]
    assert second == streams[:1]
    streams[5].push(frames(0))
    for stream in streams[:5]:
        stream.push(frames(1))
    assert [len(fake.step()) for _ in range(3)] == [1, 4, 1]  # an opening is another program
    for stream in streams[:5]:
        stream.ask("?")
    assert len(fake.step()) == 5
