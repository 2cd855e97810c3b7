"""Writes the report of the ablations from what results there are.

    python -m benchmarks.ablations.report DIR [--markdown FILE]

DIR holds results.jsonl; report.html with plots is written beside it, with --markdown the tables too.
Intervals are 95% percentile intervals of 2,000 bootstrap resamples of the test matches, all seeds of a
variant together.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.ablations.run import results_of  # noqa: E402
from livecc_jax.evaluate.metrics.fact_errors import CLASSES  # noqa: E402
from livecc_jax.evaluate.metrics.statistics import percentile_interval  # noqa: E402
from livecc_jax.reports.charts import Bar, Line, bar_chart, line_chart  # noqa: E402
from livecc_jax.reports.page import (  # noqa: E402
    Details,
    Figure,
    Heading,
    Table,
    Text,
    write_html,
    write_markdown,
)

RESAMPLES = 2000
IN_TIME, ANY_TIME = "fact F1, in time", "fact F1, at any time"
ARMS = {
    0: "Reference, its ceiling and baselines",
    1: "Caption format against streaming format",
    2: "Context: title and previous commentary",
    3: "Amount of data",
    4: "Noisy captions, clean transcripts, questions",
    5: "Positions",
    6: "Packing, splitting, weighting",
    7: "Silence at the end of clips",
    8: "Pixel budget",
    9: "Streams of half an hour",
    10: "Eight bits",
    11: "Adapters: from the noisy model to a new commentator",
}
SHOWN = (
    ("precision", "fact precision, in time"), ("recall", "fact recall, in time"),
    ("true facts", "true facts"), ("right names", "right names"), ("right score", "right score"),
    ("delay, s", "delay after an event, median"), ("trigger F1", "trigger F1"),
    ("silence kept", "silence recall"), ("false alarms/min", "false alarms a quiet minute"),
)  # fmt: skip
SPANS = ((0, 2), (2, 5), (5, 10), (10, 20), (20, 30))  # minutes of long streams
# Results of one job that belong to another arm's table.
MOVED = {"fp8": 10, "int8 cache": 10, "int8 weights": 10}


class Variant:
    """All seeds of a variant."""

    def __init__(self, name, results):
        self.name, self.results = name, sorted(results, key=lambda r: r["seed"])
        clips = [np.array(r["clips"], float) for r in self.results if r["clips"]]
        self.clips = np.stack(clips) if clips else np.zeros((0, 0, 5))  # [seeds, matches, 5]

    def f1(self, column, drawn=None):
        clips = self.clips if drawn is None else self.clips[:, drawn]
        said = clips[..., 2].sum() + clips[..., 3].sum()
        return 100 * 2 * clips[..., column].sum() / said if said else float("nan")

    def interval(self, column):
        matches = self.clips.shape[1]
        rng = np.random.default_rng(0)
        samples = [self.f1(column, rng.integers(0, matches, matches)) for _ in range(RESAMPLES)]
        return percentile_interval(np.array(samples))

    def difference(self, other, column):
        """This variant minus another on the matches that both have, as text with its interval."""
        matches = min(self.clips.shape[1], other.clips.shape[1])
        rng = np.random.default_rng(0)
        samples = []
        for _ in range(RESAMPLES):
            drawn = rng.integers(0, matches, matches)
            samples.append(self.f1(column, drawn) - other.f1(column, drawn))
        common = np.arange(matches)
        value = self.f1(column, common) - other.f1(column, common)
        return f"{value:+.1f} ({span(percentile_interval(np.array(samples)))})"

    def win_rate(self, other):
        """Percent of the clips that this variant wins, a tie counting half, with its interval."""
        seeds, matches = (min(a, b) for a, b in zip(self.clips.shape[:2], other.clips.shape[:2]))
        keys = []
        for clips in (self.clips, other.clips):
            right, _, said, reference, true = np.moveaxis(clips[:seeds, :matches], -1, 0)
            # As in evaluate.metrics.fact_judge: F1 in time, then the share of true facts.
            total = said + reference
            f1 = np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)
            keys.append((f1, true / np.maximum(said, 1)))
        (f1, true), (other_f1, other_true) = keys
        wins = np.where(f1 == other_f1, np.sign(true - other_true), np.sign(f1 - other_f1))
        points = 50 * (wins + 1)
        rng = np.random.default_rng(0)
        samples = [points[:, rng.integers(0, matches, matches)].mean() for _ in range(RESAMPLES)]
        return f"{points.mean():.1f}% ({span(percentile_interval(np.array(samples)))})"

    def mean(self, get):
        values = [v for r in self.results if (v := get(r)) is not None]
        return float(np.mean(values)) if values else float("nan")

    def by_seed(self, column):
        return [Variant(self.name, [r]).f1(column) for r in self.results if r["clips"]]


def variants_by_arm(results):
    found = defaultdict(lambda: defaultdict(list))
    for result in results:
        arm = MOVED.get(result["variant"], max(result["arm"], 0))
        found[arm][result["variant"], result.get("text", "")].append(result)
    return {
        arm: {key: Variant(key[0], results) for key, results in variants.items()}
        for arm, variants in sorted(found.items())
    }


def number(value, digits=1):
    return "-" if value != value else f"{value:.{digits}f}"


def span(interval):
    return f"{interval.low:.1f} to {interval.high:.1f}" if interval.low == interval.low else "-"


def commentary_table(variants):
    heads = (
        "variant", "seeds", "F1 in time", "95% interval", "by seed", "F1 any time", "95% interval",
        *(name for name, _ in SHOWN),
    )  # fmt: skip
    rows = []
    for v in variants:
        rows.append((
            v.name, str(len(v.results)), number(v.f1(0)), span(v.interval(0)),
            " ".join(number(x) for x in v.by_seed(0)), number(v.f1(1)), span(v.interval(1)),
            *(number(v.mean(lambda r, m=metric: r["metrics"].get(m)), 2 if "delay" in metric else 1)
              for _, metric in SHOWN),
        ))  # fmt: skip
    return Table(heads, rows)


def training_table(variants):
    heads = (
        "variant", "matches", "examples", "examples a row", "rows a step", "steps", "epochs", "minutes",
        "tokens/s", "waiting, %", "rows made in, s", "loss",
    )  # fmt: skip
    rows = []
    for v in variants:
        trained = [r for r in v.results if "train" in r]
        if trained:
            stats = trained[0]["train"]
            minutes = v.mean(lambda r: r["train"]["train_seconds"]) / 60
            rows.append((
                v.name, f"{stats['matches']:,}", f"{stats['examples']:,}",
                str(stats["examples_per_row"]),
                str(stats["rows_per_step"]), f"{stats['steps']:,}", str(stats["epochs"]),
                number(minutes, 2), f"{v.mean(lambda r: r['train']['tokens_per_second']):,.0f}",
                number(100 * v.mean(lambda r: r["train"]["waiting"]), 2),
                number(v.mean(lambda r: r["train"]["row_seconds"])),
                number(v.mean(lambda r: r["train"]["final_loss"]), 3),
            ))  # fmt: skip
    return Table(heads, rows)


def arm_blocks(arm, variants, reference):
    shown = list(variants.values())
    if arm not in (0, 3, 9, 10, 11) and reference and arm in (1, 5, 6, 7, 8):
        shown = [reference, *shown]
    if arm == 10 and reference:
        shown = [reference, *shown]
    streamed = [v for v in shown if v.clips.size]
    asked = [v for v in shown if any("accuracy" in r for r in v.results)]
    blocks = [Heading(f"{arm}. {ARMS.get(arm, '')}" if arm else ARMS[0])]
    if streamed:
        bars = [
            Bar(v.name, v.f1(column), *(lambda i: (i.low, i.high))(v.interval(column)), series=series)
            for v in streamed
            for column, series in ((0, IN_TIME), (1, ANY_TIME))
        ]
        caption = "F1 of facts in percent, all seeds together; whiskers: 95% of resampled matches"
        blocks += [Figure(bar_chart(bars, ARMS.get(arm, "")), caption), commentary_table(streamed)]
        first = streamed[0]
        if len(streamed) > 1 and arm:
            rows = [
                (
                    v.name,
                    v.win_rate(first),
                    *(v.difference(first, column) for column in (0, 1)),
                )
                for v in streamed[1:]
                if v.results[0].get("text") == first.results[0].get("text")
            ]
            if rows:
                heads = (f"against “{first.name}”", "win rate", IN_TIME, ANY_TIME)
                blocks.append(Table(heads, rows))
    if asked:
        rows = [
            (
                v.name,
                number(v.mean(lambda r: r.get("accuracy"))),
                str(v.results[0].get("questions", "")),
            )
            for v in asked
        ]
        blocks.append(Table(("questions", "accuracy, %", "of"), rows))
    minutes = [v for v in shown if any("by_minute" in r for r in v.results)]
    if minutes:
        lines = [
            Line(v.name, list(range(1, len(y) + 1)), [x if x is not None else float("nan") for x in y])
            for v in minutes
            for y in [v.results[0]["by_minute"]]
        ]
        blocks.append(
            Figure(
                line_chart(lines, "F1 by minute", "minute", "%"), f"{IN_TIME} by minute of the stream"
            )
        )
        rows = [
            (line.name, *(number(float(np.nanmean(line.y[a:b]))) for a, b in SPANS if len(line.y) > a))
            for line in lines
        ]
        blocks.append(Table(("minutes", "1-2", "3-5", "6-10", "11-20", "21-30")[: len(rows[0])], rows))
    trained = training_table(shown)
    if trained.rows:
        blocks.append(Details("Training", [trained]))
    return blocks


def loss_blocks(variants):
    lines = [
        Line(v.name, [x for x, _ in r["losses"]], [y for _, y in r["losses"]], markers=False)
        for v in variants
        for r in v.results[:1]
        if r.get("losses")
    ]
    return (
        [Figure(line_chart(lines, "loss", "step", "nats"), "training loss of a token, first seed")]
        if lines
        else []
    )


def error_table(variants):
    rows = []
    for v in variants:
        errors = v.results[0].get("errors") or {}
        if errors:
            total = sum(errors.get(name, 0) for name in CLASSES[:-1])
            missed = errors.get(CLASSES[-1], 0)
            shares = (number(100 * errors.get(c, 0) / max(total, 1)) for c in CLASSES[:-1])
            rows.append((v.name, *shares, f"{missed:,}"))
    return Table(("of the facts that are said, %", *CLASSES[:-1], "missed, facts"), rows)


def build(results):
    arms = variants_by_arm(results)
    zero = arms.get(0, {})
    reference = zero.get(("reference", "calm"))
    machines = sorted({f"{m['device']}, jax {m['jax']}, Python {m['python']}, {m['date']}"
                       for r in results for m in [r.get("machine")] if m})  # fmt: skip
    jobs = {r["job"] for r in results} - {"baselines"}
    blocks = [
        Heading("Ablations on the synthetic world", 1),
        Text(f"{len(jobs)} jobs, {len(results)} results. {'; '.join(machines)}."),
    ]
    if zero:
        blocks += arm_blocks(0, {k: v for k, v in zero.items() if k[1] in ("calm", "")}, None)
        blocks += [
            Heading("What is wrong", 3),
            error_table([v for k, v in zero.items() if k[1] == "calm"]),
        ]
        if reference:
            blocks += loss_blocks([reference])
    for arm, variants in arms.items():
        if arm:
            text = next(iter(variants))[1]
            ceiling = zero.get(("second draw", text)) if arm in (2, 11) else None
            blocks += arm_blocks(arm, variants, reference)
            if ceiling:
                blocks.append(
                    Text(f"Ceiling, this commentator's second draw: {number(ceiling.f1(0))}%.")
                )
    return blocks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of results.jsonl")
    parser.add_argument("--markdown", help="also write the tables as Markdown")
    args = parser.parse_args()
    folder = Path(args.folder)
    # A job that was stopped and repeated has some results twice: the later ones count.
    results = {
        (r["job"], r.get("stage"), r["variant"], r.get("text")): r
        for r in results_of(folder / "results.jsonl")
    }
    blocks = build(list(results.values()))
    write_html(folder / "report.html", blocks)
    if args.markdown:
        write_markdown(args.markdown, blocks)
    print(f"written to {folder / 'report.html'}")


if __name__ == "__main__":
    main()
