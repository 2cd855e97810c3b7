"""Draws plots as SVG text for a self-contained page; the colours come from the style in document.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
LABEL_WIDTH = 210
BAR_PITCH = 18  # from one bar to the next


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart.

    Attributes:
        name: Label of the bar.
        value: Value in percent; nan draws no bar.
        low: Lower end of the interval in percent; nan draws none.
        high: Upper end of the interval.
        note: Text written after the value.
    """

    name: str
    value: float
    low: float
    high: float
    note: str = ""


def bar_chart(bars: Sequence[Bar], title: str) -> str:
    """Draws horizontal bars from 0 to 100% with their intervals."""
    plot = WIDTH - LABEL_WIDTH - 110
    height = BAR_PITCH * len(bars) + 30

    def x(value: float) -> float:
        return LABEL_WIDTH + plot * value / 100

    out = [_open(height, title)]
    for tick in range(0, 101, 20):
        out.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 20}"/>'
        )
        out.append(_text(x(tick), height - 6, f"{tick}", "middle"))
    for i, bar in enumerate(bars):
        y = 6 + BAR_PITCH * i
        out.append(_text(LABEL_WIDTH - 6, y + 11, bar.name, "end"))
        if not math.isfinite(bar.value):
            continue
        width = x(bar.value) - x(0)
        out.append(
            f'<rect class="bar" x="{x(0):.1f}" y="{y}" width="{width:.1f}" height="{BAR_PITCH - 6}">'
            f"<title>{escape(f'{bar.name}: {bar.value:.1f}% {bar.note}')}</title></rect>"
        )
        if math.isfinite(bar.low):
            middle = y + (BAR_PITCH - 6) / 2
            out.append(
                f'<path class="whisker" d="M{x(bar.low):.1f} {middle - 3} v6 m0 -3 '
                f'H{x(bar.high):.1f} m0 -3 v6"/>'
            )
        edge = bar.high if math.isfinite(bar.high) else bar.value
        out.append(_text(x(max(edge, bar.value)) + 5, y + 11, f"{bar.value:.1f} {bar.note}", "start"))
    return "".join([*out, "</svg>"])


def histogram(values: Sequence[float], title: str, unit: str, bins: int = 40) -> str:
    """Draws a histogram from the 0.5th to the 99.5th percentile; the end bins hold all values outside.

    Args:
        values: Values to count; those that are not finite are ignored.
        title: Accessible name of the plot.
        unit: Label of the value axis.
        bins: Number of bins.
    """
    finite = sorted(v for v in values if math.isfinite(v))
    if not finite:
        return ""
    low, high = finite[int(0.005 * (len(finite) - 1))], finite[math.ceil(0.995 * (len(finite) - 1))]
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    height, plot, top = 170, WIDTH - 60, max(counts)

    def x(value: float) -> float:
        return 40 + plot * (value - low) / (high - low)

    out = [_open(height, title)]
    for i, count in enumerate(counts):
        bar_height = 130 * count / top
        out.append(
            f'<rect class="bar" x="{40 + plot * i / bins:.1f}" y="{140 - bar_height:.1f}" '
            f'width="{plot / bins - 1:.1f}" height="{bar_height:.1f}"><title>{count}</title></rect>'
        )
    for i in range(7):
        value = low + (high - low) * i / 6
        out.append(_text(x(value), 156, f"{value:.1f}", "middle"))
    if low < 0 < high:
        out.append(f'<line class="whisker" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="6" y2="140"/>')
    out.append(_text(36, 14, f"{top}", "end"))
    out.append(_text(40 + plot, 168, unit, "end"))
    return "".join([*out, "</svg>"])


def log_bar_chart(values: Sequence[tuple[float, float, float]], title: str) -> str:
    """Draws bars along a time axis, with their height on a logarithmic scale that begins at 1.

    Args:
        values: (start in seconds, end in seconds, value of at least 1), in order of time.
        title: Accessible name of the plot.
    """
    if not values:
        return ""
    plot, end = WIDTH - 60, max(b for _, b, _ in values)
    decades = max(1, math.ceil(math.log10(max(max(v for *_, v in values), 1.0)) - 1e-9))
    out = [_open(170, title)]
    for i in range(decades + 1):
        y = 140 - 130 * i / decades
        out.append(f'<line class="grid" x1="40" x2="{40 + plot}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(_text(36, y + 4, f"{10**i:,}" if i < 7 else f"1e{i}", "end"))
    for a, b, value in values:
        bar_height = 130 * math.log10(max(value, 1.0)) / decades
        out.append(
            f'<rect class="bar" x="{40 + plot * a / end:.1f}" y="{140 - bar_height:.1f}" '
            f'width="{max(0.5, plot * (b - a) / end - 1):.1f}" height="{bar_height:.1f}">'
            f"<title>{escape(f'{a:g} to {b:g} s: {value:.1f}')}</title></rect>"
        )
    for i in range(7):
        out.append(_text(40 + plot * i / 6, 156, f"{end * i / 6:.0f} s", "middle"))
    return "".join([*out, "</svg>"])


def timeline_chart(
    lanes: Sequence[tuple[str, Sequence[tuple[float, float, str]]]],
    start: float,
    end: float,
    title: str,
) -> str:
    """Draws spans along a time axis, with one lane for each series.

    Args:
        lanes: (name, spans) of each series; a span is (start in seconds, end in seconds, tooltip).
        start: First second of the axis.
        end: Last second of the axis.
        title: Accessible name of the plot.
    """
    height, plot = 22 * len(lanes) + 26, WIDTH - 100
    length = max(end - start, 1e-6)

    def x(second: float) -> float:
        return 90 + plot * (min(max(second, start), end) - start) / length

    out = [_open(height, title)]
    for i, (name, spans) in enumerate(lanes):
        y = 4 + 22 * i
        out.append(_text(84, y + 12, name, "end"))
        out.append(f'<rect class="lane" x="90" y="{y}" width="{plot}" height="16"/>')
        for a, b, text in spans:
            out.append(
                f'<rect class="{"bar" if i else "other"}" x="{x(a):.1f}" y="{y}" '
                f'width="{max(1.0, x(b) - x(a)):.1f}" height="16"><title>{escape(text)}</title></rect>'
            )
    for i in range(7):
        second = start + length * i / 6
        out.append(_text(x(second), height - 6, f"{second:.0f} s", "middle"))
    return "".join([*out, "</svg>"])


def _open(height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text.strip())}</text>'
