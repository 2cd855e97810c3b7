"""Plots of a report as inline SVG: bars, lines, histograms, columns along time, funnels, timelines.

Each function returns a `Plot` for `page.Figure`. Without matplotlib, or with nothing to draw, the plot
is a note that says so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from livecc_jax.reports.drawing import (
    EMPTY,
    FAINT,
    INK,
    SERIES,
    Plot,
    Tooltips,
    clean,
    draw,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Bar", "Lane", "Line", "Plot", "Span", "Stage", "bar_chart", "column_chart", "funnel_chart",
    "histogram", "line_chart", "timeline_chart",
]  # fmt: skip

BAR_PITCH = 26  # pixels from one bar to the next
NAN = math.nan


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: Label of the bar.
        value: Length; nan draws no bar.
        low: Lower end of the interval; nan draws none.
        high: Upper end of the interval.
        note: Text after the value, such as `of 120`.
        series: Name of the series, one colour each; a legend names them if there are several.
    """

    name: str
    value: float
    low: float = NAN
    high: float = NAN
    note: str = ""
    series: str = ""


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: Name in the legend.
        x: Places of the points, in order.
        y: Values; nan breaks the line.
        low: Lower ends of the intervals, one a point, or empty.
        high: Upper ends of the intervals.
        markers: Whether the points are marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    markers: bool = True


@dataclass(frozen=True)
class Stage:
    """One stage of a funnel: its name, how many are left after it, and a note."""

    name: str
    count: int
    note: str = ""


@dataclass(frozen=True)
class Span:
    """A span of a lane in seconds, and the text shown over it."""

    start: float
    end: float
    text: str = ""


@dataclass(frozen=True)
class Lane:
    """One lane of a timeline."""

    name: str
    spans: Sequence[Span]


def bar_chart(
    bars: Sequence[Bar],
    title: str,
    label: str = "",
    *,
    limits: tuple[float, float] | None = None,
    reference: float | None = None,
    reference_name: str = "",
    digits: int = 1,
) -> Plot:
    """Draws horizontal bars, the first on top, with their values and intervals.

    Args:
        bars: The bars.
        title: What a screen reader says of the plot.
        label: Label of the value axis, with the unit.
        limits: Ends of the value axis; by default from 0 to the largest value.
        reference: A value marked by a dashed line, such as the accuracy of guessing; nan marks none.
        reference_name: Name of that line.
        digits: Decimals of the values.
    """
    if not any(math.isfinite(bar.value) for bar in bars):
        return Plot("", EMPTY)
    names = list(dict.fromkeys(bar.series for bar in bars))

    def paint(axes: Axes, tooltips: Tooltips) -> None:
        ends = [v for b in bars for v in (b.value, b.high) if math.isfinite(v)]
        low, high = limits or (min(0.0, *ends), max(ends) or 1.0)
        axes.set_xlim(low, low + 1.22 * (high - low))  # room for the values
        axes.xaxis.get_major_locator().set_params(integer=digits == 0)
        if limits:
            axes.set_xticks([t for t in axes.get_xticks() if low <= t <= high])
        _plain_numbers(axes)
        for i, bar in enumerate(bars):
            if not math.isfinite(bar.value):
                continue
            color = SERIES[names.index(bar.series) % len(SERIES)]
            [drawn] = axes.barh(i, bar.value, height=0.62, color=color)
            tooltips.add(drawn, f"{bar.name}: {bar.value:.{digits}f} {bar.note}".rstrip())
            edge = max(bar.value, 0.0)
            if math.isfinite(bar.low) and math.isfinite(bar.high):
                ends = [[max(0.0, bar.value - bar.low)], [max(0.0, bar.high - bar.value)]]
                axes.errorbar(bar.value, i, xerr=ends, color=INK, capsize=3, linewidth=1.2)
                edge = max(edge, bar.high)
            text = clean(f"{bar.value:,.{digits}f} {bar.note}")
            axes.annotate(text, (edge, i), (5, 0), textcoords="offset pixels", va="center", size=10)
        axes.set_yticks(range(len(bars)), [_wrap(bar.name) for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel(clean(label))
        if reference is not None and math.isfinite(reference):
            axes.axvline(reference, color=INK, linestyle="--", linewidth=1.2)
        _legend(axes, [n for n in names if n] if len(names) > 1 else [], reference, reference_name)

    extra = 22 * (len(names) > 1 or bool(reference_name)) + 16 * bool(label)
    return draw(paint, BAR_PITCH * len(bars) + 34 + extra, title)


def line_chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    *,
    x_log: bool = False,
    y_log: bool = False,
    y_from: float | None = None,
    reference: float | None = None,
    reference_name: str = "",
) -> Plot:
    """Draws lines; an interval is a shaded band, or a whisker where its line has a single point.

    Args:
        lines: The lines.
        title: What a screen reader says of the plot.
        x_label: Label of the horizontal axis, with the unit.
        y_label: Label of the vertical axis, with the unit.
        x_log: Whether the horizontal axis is logarithmic.
        y_log: Whether the vertical axis is logarithmic.
        y_from: Where the vertical axis begins; by default where the values do.
        reference: A value marked by a dashed line; nan marks none.
        reference_name: Name of that line.
    """
    if not any(math.isfinite(v) for line in lines for v in line.y):
        return Plot("", EMPTY)

    def paint(axes: Axes, tooltips: Tooltips) -> None:
        for i, line in enumerate(lines):
            color = SERIES[i % len(SERIES)]
            marker = "o" if line.markers else None
            [drawn] = axes.plot(line.x, line.y, color=color, marker=marker, markersize=4)
            tooltips.add(drawn, line.name)
            if len(line.low) and len(line.x) > 1:
                axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.2, linewidth=0)
            elif len(line.low):
                ends = [[line.y[0] - line.low[0]], [line.high[0] - line.y[0]]]
                axes.errorbar(line.x, line.y, yerr=ends, color=color, capsize=3)
        if x_log:
            axes.set_xscale("log")
        if y_log:
            axes.set_yscale("log")
        _plain_numbers(axes)
        places = sorted({x for line in lines for x in line.x})
        if x_log and len(places) <= 8:  # the points are few, such as 1, 2, 4, 8: name each
            axes.set_xticks(places, [f"{x:,g}" for x in places])
        if y_from is not None:
            axes.set_ylim(bottom=y_from)
        axes.grid(axis="y")
        axes.set_xlabel(clean(x_label))
        axes.set_ylabel(clean(y_label))
        if reference is not None and math.isfinite(reference):
            axes.axhline(reference, color=INK, linestyle="--", linewidth=1.2)
        _legend(axes, [line.name for line in lines], reference, reference_name)

    return draw(paint, 270 + 16 * (1 + len(lines)) // 2, title)


def histogram(
    values: Sequence[float],
    title: str,
    x_label: str,
    *,
    bins: int = 40,
    mark: float | None = None,
    trim: bool = True,
) -> Plot:
    """Draws a histogram.

    Args:
        values: Values to count; those that are not finite are left out.
        title: What a screen reader says of the plot.
        x_label: Label of the value axis, with the unit.
        bins: Number of bins.
        mark: A value marked by a line, drawn if it lies within the axis.
        trim: Whether the axis goes from the 0.5th to the 99.5th percentile only; the end bins then hold
            all values outside.
    """
    finite = sorted(float(v) for v in values if math.isfinite(v))
    if not finite:
        return Plot("", EMPTY)
    low, high = finite[0], finite[-1]
    if trim:
        low, high = finite[int(0.005 * (len(finite) - 1))], finite[math.ceil(0.995 * (len(finite) - 1))]
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts = count_in_bins(finite, low, high, bins)

    def paint(axes: Axes, tooltips: Tooltips) -> None:
        width = (high - low) / bins
        for i, count in enumerate(counts):
            left = low + i * width
            [drawn] = axes.bar(left, count, width * 0.92, align="edge", color=SERIES[0])
            tooltips.add(drawn, f"{left:.4g} to {left + width:.4g}: {count:,}")
        axes.grid(axis="y")
        axes.set_xlabel(clean(x_label))
        axes.yaxis.get_major_locator().set_params(integer=True)
        if mark is not None and low < mark < high:
            axes.axvline(mark, color=INK, linewidth=1.2)

    return draw(paint, 210, title)


def count_in_bins(values: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    """Counts values in equal bins from low to high; the end bins also hold what lies outside."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    return counts


def column_chart(
    columns: Sequence[tuple[float, float, float]],
    title: str,
    x_label: str,
    y_label: str,
    *,
    y_log: bool = False,
) -> Plot:
    """Draws columns along an axis such as time.

    Args:
        columns: (start, end, value) of each column; on a logarithmic axis values are at least 1.
        title: What a screen reader says of the plot.
        x_label: Label of the horizontal axis, with the unit.
        y_label: Label of the vertical axis, with the unit.
        y_log: Whether the vertical axis is logarithmic; it then begins at 1.
    """
    if not columns:
        return Plot("", EMPTY)

    def paint(axes: Axes, tooltips: Tooltips) -> None:
        for start, end, value in columns:
            [drawn] = axes.bar(start, value, (end - start) * 0.92, align="edge", color=SERIES[0])
            tooltips.add(drawn, f"{start:g} to {end:g}: {value:,.4g}")
        if y_log:
            axes.set_yscale("log")
            top = max(10.0, *(value for *_, value in columns))
            axes.set_ylim(1, 10 ** math.ceil(math.log10(top) - 1e-9))
        _plain_numbers(axes)
        axes.grid(axis="y")
        axes.set_xlabel(clean(x_label))
        axes.set_ylabel(clean(y_label))

    return draw(paint, 220, title)


def funnel_chart(stages: Sequence[Stage], title: str, label: str = "") -> Plot:
    """Draws how many are left after each stage, with their share of the first stage.

    Args:
        stages: The stages in order; the first holds what came in.
        title: What a screen reader says of the plot.
        label: Label of the value axis, with the unit.
    """
    first = stages[0].count if stages else 0
    if not first:
        return Plot("", EMPTY)
    bars = []
    for before, stage in zip([stages[0], *stages], stages):
        lost = before.count - stage.count
        parts = [f"{100 * stage.count / first:.0f}%", f"-{lost:,}" if lost else "", stage.note]
        bars.append(Bar(stage.name, stage.count, note=" ".join(filter(None, parts))))
    return bar_chart(bars, title, label, limits=(0, 1.12 * first), digits=0)


def timeline_chart(lanes: Sequence[Lane], start: float, end: float, title: str) -> Plot:
    """Draws spans along a time axis, one lane a series, over the full width of a page.

    Args:
        lanes: The lanes, the first on top.
        start: First second of the axis.
        end: Last second of the axis.
        title: What a screen reader says of the plot.
    """

    def paint(axes: Axes, tooltips: Tooltips) -> None:
        axes.set_position((0.125, 0.26 if len(lanes) < 4 else 0.15, 0.861, 0.7))
        for i, lane in enumerate(lanes):
            axes.axhspan(i - 0.38, i + 0.38, facecolor="none", edgecolor=FAINT)
            for span in lane.spans:
                left, right = (min(max(second, start), end) for second in (span.start, span.end))
                least = 0.002 * (end - start)
                [drawn] = axes.barh(
                    i, max(right - left, least), left=left, height=0.76, color=SERIES[(i + 1) % 2]
                )
                tooltips.add(drawn, span.text)
        axes.set_yticks(range(len(lanes)), [_wrap(lane.name, 14) for lane in lanes])
        axes.set_ylim(len(lanes) - 0.5, -0.5)
        axes.set_xlim(start, max(end, start + 1e-6))
        ticks = [start + (end - start) * i / 6 for i in range(7)]
        axes.set_xticks(ticks, [f"{t:.0f} s" for t in ticks])
        for side in axes.spines.values():
            side.set_visible(False)

    return draw(paint, 26 * len(lanes) + 34, title, wide=True)


def _plain_numbers(axes: Axes) -> None:
    """Writes the numbers of axes out, since powers of a logarithmic axis would be set as formulas."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        if axis.get_scale() == "log":
            axis.set_minor_formatter(NullFormatter())
            if low > 0 and high / low < 300:  # few powers of ten: numbers between them, too
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        elif high < 10_000:
            continue
        axis.set_major_formatter(
            FuncFormatter(lambda v, _: f"{v:,.0f}" if v == int(v) and abs(v) < 1e7 else f"{v:g}")
        )


def _legend(axes: Axes, names: Sequence[str], reference: float | None, reference_name: str) -> None:
    """Puts the names of series, and of the marked value, above the plot."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=SERIES[i % len(SERIES)], linewidth=5, label=clean(name, 60))
        for i, name in enumerate(names)
        if name
    ]
    if reference is not None and math.isfinite(reference) and reference_name:
        label = clean(reference_name, 60)
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.2, label=label))
    if handles:
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=10, borderpad=0
        )


def _wrap(name: str, width: int = 24) -> str:
    """Breaks a long name into at most two lines."""
    lines = textwrap.wrap(clean(name), width) or [""]
    return "\n".join(lines if len(lines) <= 2 else [lines[0], f"{lines[1][: width - 1]}…"])
