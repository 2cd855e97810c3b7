"""Categories of the benchmarks, and the layouts of their accuracy tables.

Names and orders are those of the benchmarks: Video-MME (arXiv 2405.21075), MVBench (arXiv 2311.17005),
OVO-Bench (arXiv 2501.05510), LiveSports-3K (arXiv 2504.16030).
"""

from __future__ import annotations

from dataclasses import dataclass

DURATIONS = ("short", "medium", "long")
VIDEOMME_DOMAINS = (
    "Knowledge",
    "Film & Television",
    "Sports Competition",
    "Artistic Performance",
    "Life Record",
    "Multilingual",
)
VIDEOMME_SUB_CATEGORIES = (
    *("Humanity & History", "Literature & Art", "Biology & Medicine", "Finance & Commerce"),
    *("Astronomy", "Geography", "Law", "Life Tip", "Technology", "Animation", "Movie & TV Show"),
    *("Documentary", "News Report", "Esports", "Basketball", "Football", "Athletics", "Other Sports"),
    *("Stage Play", "Magic Show", "Variety Show", "Acrobatics", "Handicraft", "Food", "Fashion"),
    *("Daily Life", "Travel", "Pet & Animal", "Exercise", "Multilingual"),
)
VIDEOMME_TASKS = (
    *("Temporal Perception", "Spatial Perception", "Attribute Perception", "Action Recognition"),
    *("Object Recognition", "OCR Problems", "Counting Problem", "Temporal Reasoning"),
    *("Spatial Reasoning", "Action Reasoning", "Object Reasoning", "Information Synopsis"),
)
OVO_GROUPS = {
    "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "backward": ("EPM", "ASI", "HLD"),
    "forward": ("REC", "SSR", "CRR"),
}
OVO_GROUP_OF = {task: group for group, tasks in OVO_GROUPS.items() for task in tasks}


@dataclass(frozen=True)
class MeanRow:
    """A table row that is the mean of other rows; rows without answers are left out of the mean.

    Attributes:
        name: Name of the row.
        rows: The (facet, value) of each row in the mean, or the name of a facet for all of its rows.
    """

    name: str
    rows: tuple[tuple[str, str], ...] | str


@dataclass(frozen=True)
class TableLayout:
    """Layout of a benchmark's accuracy tables.

    Attributes:
        title: Name of the benchmark.
        facets: Values of each facet in table order; values that are not listed follow, sorted.
        headline: Name of the row that is quoted as the result of a run.
        crossed: Pairs of facets that are also tabulated together.
        means: Rows that are means of other rows.
        pooled: Name of the row that counts all answers.
    """

    title: str
    facets: dict[str, tuple[str, ...]]
    headline: str
    crossed: tuple[tuple[str, str], ...] = ()
    means: tuple[MeanRow, ...] = ()
    pooled: str = "overall"


def _ovo_task_rows(group: str) -> tuple[tuple[str, str], ...]:
    return tuple(("task", task) for task in OVO_GROUPS[group])


TABLE_LAYOUTS = {
    "videomme": TableLayout(
        "Video-MME",
        {
            "duration": DURATIONS,
            "domain": VIDEOMME_DOMAINS,
            "sub_category": VIDEOMME_SUB_CATEGORIES,
            "task_type": VIDEOMME_TASKS,
        },
        "overall",
        crossed=(("duration", "domain"), ("duration", "sub_category"), ("duration", "task_type")),
    ),
    "mvbench": TableLayout(
        "MVBench",
        {"task_type": ()},
        "mean of tasks",
        means=(MeanRow("mean of tasks", "task_type"),),
        pooled="all questions",
    ),
    "ovobench": TableLayout(
        "OVO-Bench",
        {"task": tuple(OVO_GROUP_OF)},
        "mean of groups",
        means=(
            *(MeanRow(f"{group} (mean of its tasks)", _ovo_task_rows(group)) for group in OVO_GROUPS),
            MeanRow(
                "mean of groups",
                tuple(("mean", f"{group} (mean of its tasks)") for group in OVO_GROUPS),
            ),
            MeanRow("mean of tasks", "task"),
        ),
        pooled="all items",
    ),
    "judge": TableLayout(
        "Judged commentary",
        {"order": ("model first", "model second")},
        "win rate",
        pooled="win rate",
    ),
    "livesports-qa": TableLayout("LiveSports-3K QA", {"q_type": (), "OCR": ("OCR",)}, "overall"),
}
