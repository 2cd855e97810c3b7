"""The parts of a report about commentary: metrics, onset errors, perplexity, and timelines of clips."""

from __future__ import annotations

import math

from livecc_jax.evaluate.metrics.commentary import ClipCounts, word_spans_by_turn
from livecc_jax.evaluate.metrics.commentary_metrics import METRICS
from livecc_jax.evaluate.metrics.commentary_score import (
    PREDICTION,
    CommentaryScore,
    unbeaten_baselines,
)
from livecc_jax.evaluate.metrics.perplexity import (
    perplexity_by_second,
    perplexity_by_time_band,
    pool_turns,
)
from livecc_jax.evaluate.metrics.statistics import MIN_CLUSTERS
from livecc_jax.evaluate.report.formatting import (
    describe_perplexity,
    describe_problems,
    format_count,
    format_interval,
    format_metric,
    format_number,
)
from livecc_jax.evaluate.report.thumbnails import clip_thumbnails
from livecc_jax.reports import charts
from livecc_jax.reports.page import Block, Figure, Heading, Pictures, Table, Text

MAX_TIMELINES = 5  # clips that are shown in detail


def commentary_blocks(score: CommentaryScore) -> list[Block]:
    """Returns the metrics of every method, the plots, and the timelines of the first clips."""
    clips = score.clips
    onset_errors_s = [m.onset_error_us / 1e6 for c in clips for m in c.matches]
    rows = []
    for metric, (unit, _) in METRICS.items():
        values = [metrics[metric] for metrics in score.metrics.values()]
        interval = score.intervals.get(metric)
        rows.append(
            (
                f"{metric} ({unit})",
                *(format_metric(v) for v in values),
                format_interval(interval.low, interval.high)
                if interval and len(clips) >= MIN_CLUSTERS
                else "-",
            )
        )
    return [
        Heading(f"Commentary: word F1 {format_number(score.metrics[PREDICTION]['word F1'])}%", 1),
        Text(
            f"{len(clips):,} of {score.references:,} clips, "
            f"{sum(c.seconds for c in clips):,.0f} s of video. File {score.path}."
        ),
        Text(describe_problems(score.problem_log.problems)),
        *(Text(sentence, strong=True) for sentence in unbeaten_baselines(score.metrics)),
        Heading("Metrics"),
        Table(("", *score.metrics, "95% interval"), rows),
        Heading("Lateness of matched words (onset error)"),
        Figure(
            charts.histogram(onset_errors_s, "lateness", "seconds after a word was due", mark=0.0),
            f"{len(onset_errors_s):,} matched words; left of the line: said before they were due",
        ),
        *_perplexity_blocks(score),
        Heading("Timelines"),
        *(block for clip in clips[:MAX_TIMELINES] for block in _timeline_blocks(clip)),
    ]


def _perplexity_blocks(score: CommentaryScore) -> list[Block]:
    """Returns the teacher-forced perplexity of the reference, by time since the start of the clip."""
    clips = score.teacher_forced
    if not clips:
        return []
    seconds = [p for p in perplexity_by_second(clips) if p.word_tokens]
    columns = [(p.from_s, p.to_s, p.word_perplexity) for p in seconds]
    chart = charts.column_chart(columns, "perplexity", "seconds", "perplexity", y_log=True)
    return [
        Heading("Perplexity of the reference"),
        Text(describe_perplexity(score)),
        Figure(chart, "perplexity of the reference's words by second of the clip, all clips pooled"),
        Table(
            ("seconds", "tokens of words", "perplexity", "tokens of turns", "perplexity"),
            [
                (
                    f"{p.from_s:g} to {p.to_s:g}" if math.isfinite(p.to_s) else f"from {p.from_s:g}",
                    format_count(p.word_tokens),
                    format_metric(p.word_perplexity),
                    format_count(p.tokens),
                    f"{p.perplexity:.2f}",
                )
                for p in perplexity_by_time_band(clips)
            ],
        ),
    ]


def _timeline_blocks(clip: ClipCounts) -> list[Block]:
    """Returns frames of a clip, a chart of when words are due and said, and the words by turn."""
    forced = clip.teacher_forced
    perplexities = [pool_turns([t]) for t in forced.turns] if forced else []
    reference = clip.reference
    due = [charts.Span(w.start_us / 1e6, w.end_us / 1e6, w.text) for w in reference.words]
    said = [charts.Span(t.start_us / 1e6, t.stop_us / 1e6, t.text) for t in clip.turns if t.text]
    start, end = reference.start_us / 1e6, reference.end_us / 1e6
    rows = []
    for i, (after, until) in enumerate(word_spans_by_turn(reference)):
        human = " ".join(w.text for w in reference.words if after < w.end_us <= until)
        model = " ".join(
            t.text
            for t in clip.turns
            if t.text and after < min(t.emitted_us, reference.end_us) <= until
        )
        has_words = i < len(perplexities) and perplexities[i].word_tokens
        perplexity = f"{perplexities[i].word_perplexity:.1f}" if has_words else ""
        span = f"{after / 1e6:.1f}-{until / 1e6:.1f}"
        rows.append((span, human, model, *([perplexity] if perplexities else [])))
    heads = ("seconds", "reference", "prediction", *(["perplexity"] if perplexities else []))
    lanes = [charts.Lane("reference", due), charts.Lane("prediction", said)]
    chart = charts.timeline_chart(lanes, start, end, clip.id)
    frames = clip_thumbnails(reference)
    return [
        Heading(clip.id, 3),
        *([Pictures(frames, f"{clip.id}: {len(frames)} of its frames", True)] if frames else []),
        Figure(chart, "when words are due, and the turns in which words are said"),
        Table(heads, rows, text_columns=3),
    ]
