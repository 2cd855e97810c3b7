"""The report of a run as a page: funnel, reasons with samples, distributions, cost, provenance."""

from __future__ import annotations

import json
from typing import Any

from livecc_jax.produce.line.phases import MEDIA_READ
from livecc_jax.produce.line.run import Produced
from livecc_jax.produce.records import Clip, Rejection
from livecc_jax.produce.report.data import report_data
from livecc_jax.produce.report.thumbnails import Thumbnails
from livecc_jax.reports import charts
from livecc_jax.reports.page import (
    Block,
    Case,
    Details,
    Facts,
    Figure,
    Heading,
    Picture,
    Table,
    Text,
    write_html,
)
from livecc_jax.writing import write_text

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
MAX_REASONS_SHOWN = 30
NAMES = {
    "length": ("length of clips", "seconds"),
    "words_per_second": ("rate of words", "words a second"),
    "text_loss": ("text loss", "nats a token"),
    "face_share": ("share of frames with a large face while someone speaks", ""),
    "talking_head": ("P(Yes) of a talking head", ""),
    "shots_per_minute": ("cuts", "a minute"),
}


def write_report(
    produced: Produced,
    models: dict[str, str] | None = None,
    prices: tuple[float, float] = (0.0, 0.0),
) -> dict[str, Any]:
    """Writes report.json and report.html into a run's output folder, and returns the former's content.

    Args:
        produced: What a run did.
        models: Names of the models of stages, by stage.
        prices: Price of a million tokens of requests to the prompt stage's model, and of its answers.

    Raises:
        OutputError: A file cannot be written.
    """
    data = report_data(produced, models, prices)
    write_text(produced.out / REPORT_JSON, json.dumps(data, ensure_ascii=False, indent=1) + "\n")
    write_html(produced.out / REPORT_HTML, blocks(produced, data))
    return data


def blocks(produced: Produced, data: dict[str, Any]) -> list[Block]:
    """Returns the blocks of the page.

    Args:
        produced: What a run did, with samples.
        data: What report.json holds.
    """
    page: list[Block] = [
        Heading(f"Data production: {data['kind']}", 1),
        Facts(
            [
                ("clips", f"{data['clips']:,}", ""),
                ("hours", f"{data['hours']:,.2f}", "from first to last words"),
                ("words", f"{data['words']:,}", ""),
                ("sources used", f"{data['sources_kept']:,}", f"of {data['sources']:,}"),
            ]
        ),
    ]
    page += [Text(sentence, strong=True) for sentence in data["advice"]]
    page += [Text(sentence) for sentence in data["changed"]]
    page += _funnel(data) + _not_run(data)
    with Thumbnails() as pictures:
        page += _reasons(produced, pictures) + _kept(produced, pictures)
    page += _distributions(data) + _cost(data) + _provenance(data)
    return page


def _funnel(data: dict[str, Any]) -> list[Block]:
    rows = [
        (
            row["stage"],
            row["unit"],
            f"{row['before']:,}",
            f"{row['dropped']:,}",
            f"{row['after']:,}",
            f"{100 * row['after'] / row['before']:.1f}" if row["before"] else "",
            f"{row['hours_after']:,.2f}" if "hours_after" in row else "",
        )
        for row in data["funnel"]
    ]
    page: list[Block] = [Heading("Funnel")]
    for unit, first in (("sources", "listed"), ("clips", "cut from the words")):
        of_unit = [row for row in data["funnel"] if row["unit"] == unit]
        if of_unit and of_unit[0]["before"]:
            stages = [charts.Stage(first, of_unit[0]["before"])]
            stages += [charts.Stage(row["stage"], row["after"]) for row in of_unit]
            caption = f"{unit} left after each stage, and their share of the first bar"
            page.append(
                Figure(charts.funnel_chart(stages, f"{unit} left after each stage", unit), caption)
            )
    heads = ("stage", "of", "before", "dropped", "after", "kept %", "hours after")
    return [*page, Table(heads, rows, 2)]


def _not_run(data: dict[str, Any]) -> list[Block]:
    if not data["not_run"]:
        return []
    rows = [(row["filter"], row["reason"], row["published"]) for row in data["not_run"]]
    return [
        Heading("Filters that did not run"),
        Table(("filter", "why", "what the published system used"), rows, 3),
    ]


def _reasons(produced: Produced, pictures: Thumbnails) -> list[Block]:
    statistics = produced.statistics
    if not statistics.reasons:
        return []
    ranked = sorted(statistics.reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = [(stage, reason, f"{count:,}") for (stage, reason), count in ranked]
    page: list[Block] = [
        Heading("What was dropped, and why"),
        Table(("stage", "reason", "count"), rows, 2),
    ]
    for (stage, reason), count in ranked[:MAX_REASONS_SHOWN]:
        cases = [
            _rejection_case(r, pictures) for r in statistics.reason_samples.get((stage, reason), ())
        ]
        page.append(Details(f"{stage}: {reason} ({count:,})", cases))
    return page


def _rejection_case(rejection: Rejection, pictures: Thumbnails) -> Case:
    facts = (
        [("value", json.dumps(rejection.value, ensure_ascii=False))]
        if rejection.value is not None
        else []
    )
    if rejection.clip:
        facts.append(("seconds", f"{rejection.clip[0] / 1000:.2f} to {rejection.clip[1] / 1000:.2f}"))
    if rejection.text:
        facts.append(("text", rejection.text))
    # Of a video that a stage could not read there are none.
    shown: list[Picture] = []
    if rejection.stage in MEDIA_READ and rejection.value is not None and rejection.clip:
        shown = pictures.of(rejection.video, *rejection.clip)
    return Case(rejection.video, shown, facts=facts)


def _kept(produced: Produced, pictures: Thumbnails) -> list[Block]:
    if not produced.statistics.kept_samples:
        return []
    cases = [_kept_case(clip, pictures) for clip in produced.statistics.kept_samples]
    return [Heading("Some of what was kept"), Details(f"{len(cases)} clips", cases)]


def _kept_case(clip: Clip, pictures: Thumbnails) -> Case:
    measures = {k: v for k, v in clip.measures.items() if isinstance(v, int | float)}
    facts = [("seconds", f"{clip.start_ms / 1000:.2f} to {clip.end_ms / 1000:.2f}")]
    facts += [("query", clip.query)] if clip.query else []
    facts += [(name, f"{value:.4g}") for name, value in measures.items()]
    text = clip.text
    facts.append(("text", text if len(text) <= 600 else text[:600] + " ..."))
    inspect = f"livecc inspect annotations.jsonl shows it whole; {clip.title}"
    return Case(clip.video, pictures.of(clip.video, clip.start_ms, clip.end_ms), inspect, facts=facts)


def _distributions(data: dict[str, Any]) -> list[Block]:
    page: list[Block] = []
    if data["bounds"]:
        low, high = data["bounds"]["text_loss"]
        page.append(
            Text(
                f"The bounds of the text loss, {low:g} to {high:g}, were applied to "
                f"{data['bounds']['text_model']} ({data['bounds']['text_model_digest']}); they belong "
                "to the model."
            )
        )
    for name, found in data["distributions"].items():
        title, unit = NAMES[name]
        edges = list(found["edges"])
        ends = [*edges[1:], edges[-1] + (edges[-1] - edges[-2])]
        columns = [(a, b, c) for a, b, c in zip(edges, ends, found["counts"])]
        label = f"{title}, {unit}" if unit else title
        plot = charts.column_chart(columns, title, label, "clips")
        page.append(Figure(plot, f"{label}; the last column has no upper end"))
    if len(data["languages"]) > 1:
        rows = [(name, f"{count:,}") for name, count in data["languages"].items()]
        page.append(Table(("language of the captions", "clips"), rows))
    return [Heading("Distributions"), *page] if page else []


def _cost(data: dict[str, Any]) -> list[Block]:
    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:,.3f}".rstrip("0").rstrip(".")

    keys = ("seconds", "cpu_seconds", "records", "ms_per_record", "cpu_ms_per_record")
    rows = [(row["stage"], *(shown(row[key]) for key in keys)) for row in data["cost"]]
    heads = ("stage", "seconds", "of a processor", "records", "ms a record", "of a processor")
    wall = [(name, shown(seconds)) for name, seconds in data["wall_seconds"].items()]
    tokens = data["prompt_tokens"]
    price = f", at a price of {tokens['price']:,.2f}" if tokens["price"] else ""
    paid = f"The prompt stage's model took {tokens['in']:,} and wrote {tokens['out']:,} tokens{price}."
    return [
        Heading("Time and cost"),
        *([Text(paid)] if tokens["in"] else []),
        Text("Seconds of all workers together, over all runs on this folder:"),
        Table(heads, rows),
        Text("By the clock, in the last run:"),
        Table(("phase", "seconds"), wall),
    ]


def _provenance(data: dict[str, Any]) -> list[Block]:
    found = data["provenance"]
    rows = [
        ("livecc_jax", found["livecc_jax"]),
        ("Python", found["python"]),
        ("machine", found["machine"]),
    ]
    rows += list(found["packages"].items())
    rows += [(f"sha256 of {name}", value) for name, value in found["files"].items()]
    own = [(k, json.dumps(v, ensure_ascii=False)) for k, v in found["not_published"].items()]
    every = [(k, json.dumps(v, ensure_ascii=False)) for k, v in found["parameters"].items()]
    page: list[Block] = [Heading("Provenance"), Table(("what", "value"), rows, 2)]
    if own:
        page.append(Text("Parameters that are not the published ones:"))
        page.append(Table(("parameter", "value"), own, 2))
    page.append(Details("All parameters", [Table(("parameter", "value"), every, 2)]))
    return page
