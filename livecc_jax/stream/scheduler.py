"""How many turns a tick takes, and which of its rows each has.

A tick has equally many rows of each group of devices, a power of two or the most that a group can have,
so that few programs serve any number of turns.
"""

from __future__ import annotations

import collections

FULL = 7 / 8  # of a tick's rows: with fewer turns to take, a smaller tick


def taken(turns: int, most: int, least: int = 1) -> int:
    """How many of so many turns to take at once.

    A row that only pads costs what a turn does, as most of that is its frames. So where more than an
    eighth of a group's rows would pad, as many are taken as fill a smaller tick; the rest come next.

    Args:
        turns: that wait, of the group of devices that has most.
        most: rows of a group.
        least: fewest rows of a group, if there can be so many.
    """
    turns = min(turns, most)
    filled = turns >= FULL * _rows(turns, most, least)
    return turns if filled or turns <= least else 1 << (turns.bit_length() - 1)


def seated(shards: list[int], groups: int, most: int, least: int = 1) -> tuple[list[int], int]:
    """Which row of a tick each turn has, and how many rows there are.

    Args:
        shards: the group of each turn.
        groups: how many there are; one group's rows are after another's.
        most: rows of a group.
        least: fewest rows of a group, if there can be so many.
    """
    each = _rows(max(collections.Counter(shards).values()), most, least)
    free = [iter(range(group * each, (group + 1) * each)) for group in range(groups)]
    return [next(free[group]) for group in shards], each * groups


def _rows(turns: int, most: int, least: int) -> int:
    return min(max(least, 1 << (turns - 1).bit_length()), most)
