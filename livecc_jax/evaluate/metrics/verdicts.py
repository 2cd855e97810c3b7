"""Judge verdicts: who won, in which order, and how far the two orders agree.

The published layout is JSON lines, {video_event_id, ab_winner, ba_winner}. A winner is the name of a
model or "tie"; `ab` is the order in which the judged model stands first. A win in an order counts one
of 2 x events; a tie, or no verdict, is not a win.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.entries import Entries, Entry, read_rows

EVENTS = 1702
TIE = "tie"
ORDERS = {"ab": "model first", "ba": "model second"}


@dataclass
class Verdicts:
    """A judge's verdicts on one model.

    entries: one for each event and order, correct where the model won. The other numbers are in
    percent, nan without verdicts: agreement, of events judged in both orders, in which both name the
    same winner; first_placed, of verdicts that name a winner, for the commentary that stands first;
    ties, of verdicts.
    """

    model: str
    baseline: str
    entries: Entries
    agreement: float
    first_placed: float
    ties: float


def read_verdicts(
    path: str | Path, model: str | None = None, expected: int | None = EVENTS
) -> Verdicts:
    """Read and count verdicts.

    Args:
        path: JSON lines.
        model: whose wins count; without it the file's name must say, as in
            `GPT-4o_LiveCC-7B-Instruct.jsonl` (baseline, then model).
        expected: events of the benchmark.

    Raises:
        DataError: the file cannot be read, or it does not say whose wins count.
    """
    entries = Entries(expected=2 * expected if expected else None)
    judged: list[tuple[str, str | None, str | None]] = []
    for where, row in read_rows(path, entries):
        event = row.get("video_event_id")
        if not isinstance(event, str) or not event:
            entries.problem("malformed", f"{where}: 'video_event_id' is not a string")
            continue
        winners: list[str | None] = []
        for order in ORDERS:
            winner = row.get(f"{order}_winner")
            if winner is not None and not isinstance(winner, str):
                entries.problem("malformed", f"{where}: '{order}_winner' is not a string")
                winner = None
            winners.append(winner or None)
        judged.append((event, *winners))
    names = {w for _, *pair in judged for w in pair if w and w != TIE}
    model, baseline = _who(Path(path), names, model)
    same = both = first = named = ties = verdicts = 0
    for event, *pair in judged:
        for (order, label), winner in zip(ORDERS.items(), pair, strict=True):
            entries.add(
                Entry(
                    f"{event}/{order}",
                    event.rpartition("_")[0] or event,
                    {"order": label},
                    correct=winner == model,
                    answered=winner is not None,
                )
            )
            verdicts += winner is not None
            ties += winner == TIE
            if winner in (model, baseline):
                named += 1
                first += winner == (model if order == "ab" else baseline)
        if None not in pair:
            both += 1
            same += pair[0] == pair[1]
    return Verdicts(
        model,
        baseline,
        entries,
        _percent(same, both),
        _percent(first, named),
        _percent(ties, verdicts),
    )


def _who(path: Path, names: set[str], model: str | None) -> tuple[str, str]:
    """(model, baseline), from the option, the file's name, or what winners are called."""
    if model is None:
        # Names may hold underscores themselves: the split must account for every winner.
        parts = path.stem.split("_")
        splits = [("_".join(parts[:i]), "_".join(parts[i:])) for i in range(1, len(parts))]
        fitting = [s for s in splits if names and names <= set(s)]
        if len(fitting) != 1:
            raise DataError(
                f"{path}: say with --model whose wins count; winners are "
                f"{', '.join(sorted(names)) or 'nobody'}"
            )
        baseline, model = fitting[0]
        return model, baseline
    others = names - {model}
    if len(others) > 1 or (names and model not in names and len(names) > 1):
        raise DataError(
            f"{path}: winners are {', '.join(sorted(names))}, more than {model} and one other"
        )
    named = path.stem.removesuffix(f"_{model}")
    return model, others.pop() if others else named


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")
