"""The batch scheduler: which waiting turns an engine step takes, and in which batch slots.

A step has equally many batch slots on each device group: a power of two, or the most that a group can
have, so that few compiled programs serve any number of turns.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

from livecc_jax.stream.conversation import Conversation
from livecc_jax.stream.turn import QueuedTurn

MIN_FILL = 7 / 8  # share of batch slots: with fewer turns to take, a smaller step is run


class Scheduler:
    """Chooses the turns of each engine step and assigns their batch slots.

    Args:
        groups: Number of device groups.
        max_rows: Largest number of batch slots of a group.
        min_rows: Smallest number of batch slots of a group.
    """

    def __init__(self, groups: int, max_rows: int, min_rows: int) -> None:
        self.groups, self.max_rows, self.min_rows = groups, max_rows, min_rows

    def choose(
        self, conversations: Iterable[Conversation], claim: bool
    ) -> list[tuple[Conversation, QueuedTurn]]:
        """Returns the most urgent waiting turn and those that share its step, most urgent first.

        The most urgent turn is the one with the earliest capture time.

        Args:
            conversations: The open conversations, oldest first.
            claim: Whether to take the turns out of their queues.
        """
        ready = [(turn, c) for c in conversations if (turn := c.next_waiting()) is not None]
        ready.sort(key=lambda pair: pair[0].captured)
        chosen: list[tuple[Conversation, QueuedTurn]] = []
        rows, limit = [0] * self.groups, self.max_rows  # of each device group
        for turn, conversation in ready:
            group = conversation.context.group
            # Turns share a program when their frames have the same number and size.
            same_program = not chosen or turn.shape == chosen[0][1].shape
            # Another thread may have pushed, and so dropped this turn.
            if not same_program or rows[group] == limit or (claim and not conversation.claim(turn)):
                continue
            chosen.append((conversation, turn))
            rows[group] += 1
            # All questions go together: their prompts are short.
            if len(chosen) == 1 and len(ready) > 1 and turn.frames is not None:
                same_shape = (c.context.group for t, c in ready if t.shape == turn.shape)
                waiting = collections.Counter(same_shape)
                limit = turns_in_step(max(waiting.values()), self.max_rows, self.min_rows)
        return chosen

    def assign(self, conversations: Sequence[Conversation]) -> tuple[list[int], int]:
        """Returns (the batch slot of each conversation, the number of batch slots)."""
        groups = [conversation.context.group for conversation in conversations]
        return assign_slots(groups, self.groups, self.max_rows, self.min_rows)

    def is_full(self, turns: int) -> bool:
        """Returns whether so many turns are as many as a step can ever take."""
        return turns == self.max_rows * self.groups


def turns_in_step(turns: int, max_rows: int, min_rows: int = 1) -> int:
    """Returns how many of the waiting turns to take in one step.

    A padding slot costs as much as a turn, since most of the cost is its frames. So where more than an
    eighth of a group's slots would be padding, only as many turns are taken as fill a smaller step; the
    others are taken by the next one.

    Args:
        turns: Number of waiting turns on the device group that has the most.
        max_rows: Largest number of batch slots of a group.
        min_rows: Smallest number of batch slots of a group, if there can be so many.
    """
    turns = min(turns, max_rows)
    filled = turns >= MIN_FILL * _batch_slots(turns, max_rows, min_rows)
    return turns if filled or turns <= min_rows else 1 << (turns.bit_length() - 1)


def assign_slots(
    groups: list[int], group_count: int, max_rows: int, min_rows: int = 1
) -> tuple[list[int], int]:
    """Returns (the batch slot of each turn, the number of batch slots).

    Args:
        groups: Device group of each turn.
        group_count: Number of device groups; the slots of one group follow those of another.
        max_rows: Largest number of batch slots of a group.
        min_rows: Smallest number of batch slots of a group, if there can be so many.
    """
    each = _batch_slots(max(groups.count(g) for g in range(group_count)), max_rows, min_rows)
    free = [iter(range(group * each, (group + 1) * each)) for group in range(group_count)]
    return [next(free[group]) for group in groups], each * group_count


def _batch_slots(turns: int, max_rows: int, min_rows: int) -> int:
    return min(max(min_rows, 1 << (turns - 1).bit_length()), max_rows)
