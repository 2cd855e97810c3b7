"""Judge verdicts: the win rate of a model, the order agreement and the position bias of the judge.

The published layout is JSON lines, {video_event_id, ab_winner, ba_winner}. A winner is the name of a
model or "tie"; in order `ab` the judged model stands first. A win in one order counts as one of
2 x events; a tie, or a missing verdict, is not a win.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.record_files import read_records
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswer, ScoredAnswers

EVENTS = 1702  # of LiveSports-3K CC
TIE = "tie"
ORDERS = {"ab": "model first", "ba": "model second"}


@dataclass
class Verdicts:
    """A judge's verdicts on one model against a baseline.

    Attributes:
        model: Name of the model whose wins count.
        baseline: Name of the other model.
        answers: One scored answer for each event and order; it is correct where the model won.
        order_agreement: Percent of the events judged in both orders in which both orders name the same
            winner; nan without verdicts.
        first_position_wins: Percent of the verdicts with a winner that go to the commentary that stands
            first; 50 means no position bias. nan without verdicts.
        ties: Percent of the verdicts that are ties; nan without verdicts.
    """

    model: str
    baseline: str
    answers: ScoredAnswers
    order_agreement: float
    first_position_wins: float
    ties: float


def read_verdicts(
    path: str | Path, model: str | None = None, expected: int | None = EVENTS
) -> Verdicts:
    """Reads and counts verdicts.

    Args:
        path: JSON lines in the published layout.
        model: Name of the model whose wins count. Without it the file's name must say, as in
            `GPT-4o_LiveCC-7B-Instruct.jsonl` (baseline, then model).
        expected: Number of events of the benchmark.

    Raises:
        DataError: The file cannot be read, or it does not say whose wins count.
    """
    answers = ScoredAnswers(expected=2 * expected if expected else None)
    winners_by_event: list[tuple[str, str | None, str | None]] = []
    for where, record in read_records(path, answers):
        event = record.get("video_event_id")
        if not isinstance(event, str) or not event:
            answers.add_problem("malformed", f"{where}: 'video_event_id' is not a string")
            continue
        winners: list[str | None] = []
        for order in ORDERS:
            winner = record.get(f"{order}_winner")
            if winner is not None and not isinstance(winner, str):
                answers.add_problem("malformed", f"{where}: '{order}_winner' is not a string")
                winner = None
            winners.append(winner or None)
        winners_by_event.append((event, *winners))
    names = {w for _, *pair in winners_by_event for w in pair if w and w != TIE}
    model, baseline = _model_and_baseline(Path(path), names, model)
    agreeing = in_both_orders = first_wins = decided = ties = verdicts = 0
    for event, *pair in winners_by_event:
        for (order, label), winner in zip(ORDERS.items(), pair, strict=True):
            answers.add(
                ScoredAnswer(
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
                decided += 1
                first_wins += winner == (model if order == "ab" else baseline)
        if None not in pair:
            in_both_orders += 1
            agreeing += pair[0] == pair[1]
    return Verdicts(
        model,
        baseline,
        answers,
        _percent(agreeing, in_both_orders),
        _percent(first_wins, decided),
        _percent(ties, verdicts),
    )


def _model_and_baseline(path: Path, names: set[str], model: str | None) -> tuple[str, str]:
    """Returns (model, baseline), from the option, the file's name and the names of the winners."""
    if model is None:
        # Names may contain underscores themselves: only a split that explains every winner counts.
        parts = path.stem.split("_")
        splits = [("_".join(parts[:i]), "_".join(parts[i:])) for i in range(1, len(parts))]
        matching = [s for s in splits if names and names <= set(s)]
        if len(matching) != 1:
            raise DataError(
                f"{path}: say with --model whose wins count; the winners are "
                f"{', '.join(sorted(names)) or 'all missing'}"
            )
        baseline, model = matching[0]
        return model, baseline
    others = names - {model}
    if len(others) > 1 or (names and model not in names and len(names) > 1):
        raise DataError(
            f"{path}: winners are {', '.join(sorted(names))}, more than {model} and one other"
        )
    return model, others.pop() if others else path.stem.removesuffix(f"_{model}")


def _percent(part: int, total: int) -> float:
    return 100 * part / total if total else float("nan")
