"""Reports: what was measured, how sure it is, and what it was measured with."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

from livecc_jax.evaluate.metrics.commentary import METRICS, ClipCounts, heard_spans
from livecc_jax.evaluate.metrics.compare import Comparison
from livecc_jax.evaluate.metrics.perplexity import by_band, by_second, pooled
from livecc_jax.evaluate.metrics.score import Scored
from livecc_jax.evaluate.metrics.text import (
    count_lines,
    number,
    p_value,
    span,
    whole,
)
from livecc_jax.evaluate.metrics.timed import (
    PREDICTION,
    Commentary,
    forced_clips,
    forced_line,
    not_beaten,
)
from livecc_jax.evaluate.metrics.timed import to_json as commentary_json
from livecc_jax.evaluate.report import svg
from livecc_jax.evaluate.report.document import (
    Block,
    Figure,
    Heading,
    Pictures,
    Table,
    Text,
    to_html,
    to_markdown,
)
from livecc_jax.evaluate.report.thumbnails import thumbnails
from livecc_jax.version import __version__

CLIPS_SHOWN = 5
PACKAGES = ("numpy", "jax", "jaxlib", "flax", "opencv-python-headless", "av", "tokenizers")


def write_report(
    folder: str | Path,
    result: Scored | Commentary,
    config: dict[str, Any],
    comparison: tuple[Comparison, str] | None = None,
    results_file: str | None = None,
) -> None:
    """Write report.md, report.html and report.json.

    Args:
        folder: made if need be.
        result: what was measured.
        config: how; strings and numbers, told as they are.
        comparison: with another run (differences are this run minus it), and its name.
        results_file: of a run folder, the results' name in it, by which `livecc compare` finds them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = {"made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    setting = made | versions() | config
    if isinstance(result, Scored):
        blocks, told = _scored(result), result.to_json()
    else:
        blocks, told = _commentary(result), commentary_json(result)
    if comparison:
        blocks += _comparison(*comparison)
        told["difference"] = [row.to_json() for row in comparison[0].rows]
    blocks += [
        Heading("How it was made"),
        Table(("", ""), [(k, _shown(v)) for k, v in setting.items()], left=2),
    ]
    told |= {"setting": setting, "results": results_file}
    (folder / "report.md").write_text(to_markdown(blocks), encoding="utf-8")
    (folder / "report.html").write_text(to_html(blocks), encoding="utf-8")
    (folder / "report.json").write_text(
        json.dumps(told, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )


def versions() -> dict[str, str]:
    """Of this project, Python and the packages that numbers depend on, without importing them."""
    found = {"livecc_jax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"machine": f"{platform.system()} {platform.machine()}"}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _scored(scored: Scored) -> list[Block]:
    head = scored.headline
    blocks: list[Block] = [
        Heading(f"{scored.layout.title}: {head.name} {number(head.accuracy)}%", 1),
        Text(f"95% interval {span(head.low, head.high)}. File {scored.path}, sha256 {scored.sha256}."),
        *(Text(line.strip()) for line in count_lines(scored)),
        Heading("Table"),
        Table(
            ("facet", "", "right", "of", "no answer", "accuracy %", "95% interval"),
            [
                (
                    r.facet,
                    r.name,
                    whole(r.correct),
                    whole(r.count),
                    whole(r.unanswered),
                    number(r.accuracy),
                    span(r.low, r.high),
                )
                for r in scored.rows
            ],
            left=2,
        ),
        Heading("Accuracy by group"),
    ]
    for facet in dict.fromkeys(r.facet for r in scored.rows):
        rows = [
            svg.Bar(r.name, r.accuracy, r.low, r.high, f"of {r.count:,}" if r.count is not None else "")
            for r in scored.rows
            if r.facet == facet
        ]
        if " / " not in facet:
            blocks.append(Figure(svg.bars(rows, facet), f"{facet}: percent, with 95% intervals"))
    return blocks


def _comparison(found: Comparison, name: str) -> list[Block]:
    return [
        Heading(f"Against {name}"),
        Text(
            f"{found.common:,} items are in both; {found.alone_b:,} in this run alone and "
            f"{found.alone_a:,} in the other alone are not compared. "
            "An item without an answer is wrong."
        ),
        Table(
            (
                "facet",
                "",
                "of",
                "other",
                "this",
                "difference",
                "95% interval",
                "McNemar p",
                "bootstrap p",
            ),
            [
                (
                    r.facet,
                    r.name,
                    whole(r.count),
                    number(r.a),
                    number(r.b),
                    number(r.difference),
                    span(r.low, r.high),
                    p_value(r.mcnemar),
                    p_value(r.bootstrap_p),
                )
                for r in found.rows
            ],
            left=2,
        ),
    ]


def _commentary(found: Commentary) -> list[Block]:
    clips = found.counts[PREDICTION]
    methods = list(found.metrics)
    late = [m.lateness_us / 1e6 for c in clips for m in c.matches]
    left = [f"{v:,} {k}" for k, v in found.entries.problems.items() if v]
    rows = []
    for metric, (unit, _) in METRICS.items():
        values = [found.metrics[m][metric] for m in methods]
        between = found.intervals.get(metric)
        told = span(between.low, between.high) if between else "-"
        rows.append((f"{metric} ({unit})", *("-" if v != v else f"{v:.2f}" for v in values), told))
    return [
        Heading(f"Commentary: word F1 {number(found.metrics[PREDICTION]['word F1'])}%", 1),
        Text(
            f"{len(clips):,} of {found.entries.expected:,} clips, "
            f"{sum(c.seconds for c in clips):,.0f} s of video. File {found.path}."
        ),
        Text(f"Counted apart: {', '.join(left)}." if left else "Nothing was left out."),
        *(Text(sentence, strong=True) for sentence in not_beaten(found)),
        Heading("Metrics"),
        Table(("", *methods, "95% interval"), rows),
        Heading("How late matched words are"),
        Figure(svg.histogram(late, "lateness", "seconds after a word was due"),
               f"{len(late):,} matched words; left of the line: said before they were due"),
        *_perplexity(found),
        Heading("Along the timeline"),
        *(block for clip in clips[:CLIPS_SHOWN] for block in _timeline(clip)),
    ]  # fmt: skip


def _perplexity(found: Commentary) -> list[Block]:
    """What the reference costs the model, by time since the clip's start."""
    clips = forced_clips(found)
    if not clips:
        return []
    spoken = [c for c in by_second(clips) if c.word_tokens]
    return [
        Heading("Perplexity of the reference"),
        Text(forced_line(found)),
        Figure(svg.log_bars([(c.from_s, c.to_s, c.word_perplexity) for c in spoken], "perplexity"),
               "perplexity of the reference's words by second of the clip, all clips pooled"),
        Table(
            ("seconds", "tokens of words", "perplexity", "tokens of turns", "perplexity"),
            [
                (
                    f"{c.from_s:g} to {c.to_s:g}" if math.isfinite(c.to_s) else f"from {c.from_s:g}",
                    whole(c.word_tokens),
                    "-" if math.isnan(c.word_perplexity) else f"{c.word_perplexity:.2f}",
                    whole(c.tokens),
                    f"{c.perplexity:.2f}",
                )
                for c in by_band(clips)
            ],
        ),
    ]  # fmt: skip


def _timeline(clip: ClipCounts) -> list[Block]:
    """What is seen, a strip of who speaks when, and the words turn by turn."""
    costs = [pooled([t]) for t in clip.forced.turns] if clip.forced else []
    reference = clip.reference
    due = [(w.start_us / 1e6, w.end_us / 1e6, w.text) for w in reference.words]
    said = [(t.start_us / 1e6, t.stop_us / 1e6, t.text) for t in clip.turns if t.text]
    start, end = reference.start_us / 1e6, reference.end_us / 1e6
    rows = []
    for i, (a, b) in enumerate(heard_spans(reference)):
        human = " ".join(w.text for w in reference.words if a < w.end_us <= b)
        model = " ".join(
            t.text for t in clip.turns if t.text and a < min(t.said_us, reference.end_us) <= b
        )
        cost = f"{costs[i].word_perplexity:.1f}" if i < len(costs) and costs[i].word_tokens else ""
        rows.append((f"{a / 1e6:.1f}-{b / 1e6:.1f}", human, model, *([cost] if costs else [])))
    strip = svg.lanes([("reference", due), ("prediction", said)], start, end, clip.id)
    seen = [(t.jpeg, t.width, t.height, f"{t.second:.1f} s") for t in thumbnails(reference)]
    return [
        Heading(clip.id, 3),
        *([Pictures(seen, f"{clip.id}: {len(seen)} frames of it")] if seen else []),
        Figure(strip, "when words are due, and the turns in which words are said"),
        Table(("seconds", "reference", "prediction", *(["perplexity"] if costs else [])), rows, left=3),
    ]
