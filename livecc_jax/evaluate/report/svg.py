"""Plots as SVG text, for a page that needs nothing else. Colours come from the page (document.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
LABEL = 210  # room for names
ROW = 18


@dataclass(frozen=True)
class Bar:
    """A name, a value in percent, its interval (nan for none), and what to write after it."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""


def bars(rows: Sequence[Bar], title: str) -> str:
    """Horizontal bars from 0 to 100% with their intervals."""
    plot = WIDTH - LABEL - 110
    height = ROW * len(rows) + 30

    def x(value: float) -> float:
        return LABEL + plot * value / 100

    out = [_open(height, title)]
    for tick in range(0, 101, 20):
        out.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 20}"/>'
        )
        out.append(_text(x(tick), height - 6, f"{tick}", "middle"))
    for i, bar in enumerate(rows):
        y = 6 + ROW * i
        out.append(_text(LABEL - 6, y + 11, bar.name, "end"))
        if not math.isfinite(bar.value):
            continue
        wide = x(bar.value) - x(0)
        out.append(
            f'<rect class="bar" x="{x(0):.1f}" y="{y}" width="{wide:.1f}" height="{ROW - 6}">'
            f"<title>{escape(f'{bar.name}: {bar.value:.1f}% {bar.note}')}</title></rect>"
        )
        if math.isfinite(bar.low):
            middle = y + (ROW - 6) / 2
            out.append(
                f'<path class="whisker" d="M{x(bar.low):.1f} {middle - 3} v6 m0 -3 '
                f'H{x(bar.high):.1f} m0 -3 v6"/>'
            )
        edge = bar.high if math.isfinite(bar.high) else bar.value
        out.append(_text(x(max(edge, bar.value)) + 5, y + 11, f"{bar.value:.1f} {bar.note}", "start"))
    return "".join([*out, "</svg>"])


def histogram(values: Sequence[float], title: str, unit: str, bins: int = 40) -> str:
    """Counts of values from their 0.5th to 99.5th percentile; the end bins have what lies outside."""
    kept = sorted(v for v in values if math.isfinite(v))
    if not kept:
        return ""
    low, high = kept[int(0.005 * (len(kept) - 1))], kept[math.ceil(0.995 * (len(kept) - 1))]
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts = [0] * bins
    for value in kept:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    height, plot, top = 170, WIDTH - 60, max(counts)

    def x(value: float) -> float:
        return 40 + plot * (value - low) / (high - low)

    out = [_open(height, title)]
    for i, count in enumerate(counts):
        tall = 130 * count / top
        out.append(
            f'<rect class="bar" x="{40 + plot * i / bins:.1f}" y="{140 - tall:.1f}" '
            f'width="{plot / bins - 1:.1f}" height="{tall:.1f}"><title>{count}</title></rect>'
        )
    for i in range(7):
        value = low + (high - low) * i / 6
        out.append(_text(x(value), 156, f"{value:.1f}", "middle"))
    if low < 0 < high:
        out.append(f'<line class="whisker" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="6" y2="140"/>')
    out.append(_text(36, 14, f"{top}", "end"))
    out.append(_text(40 + plot, 168, unit, "end"))
    return "".join([*out, "</svg>"])


def log_bars(values: Sequence[tuple[float, float, float]], title: str) -> str:
    """Bars along a time axis, their height on a logarithmic scale that begins at 1.

    Args:
        values: (from second, to second, value of at least 1), in order of time.
        title: for readers who do not see it.
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
        tall = 130 * math.log10(max(value, 1.0)) / decades
        out.append(
            f'<rect class="bar" x="{40 + plot * a / end:.1f}" y="{140 - tall:.1f}" '
            f'width="{max(0.5, plot * (b - a) / end - 1):.1f}" height="{tall:.1f}">'
            f"<title>{escape(f'{a:g} to {b:g} s: {value:.1f}')}</title></rect>"
        )
    for i in range(7):
        out.append(_text(40 + plot * i / 6, 156, f"{end * i / 6:.0f} s", "middle"))
    return "".join([*out, "</svg>"])


def lanes(
    lines: Sequence[tuple[str, Sequence[tuple[float, float, str]]]],
    start: float,
    end: float,
    title: str,
) -> str:
    """Spans along a time axis, a lane a line.

    Args:
        lines: (name, spans of (from second, to second, text told on pointing)).
        start: of the axis.
        end: of the axis.
        title: for readers who do not see it.
    """
    height, plot = 22 * len(lines) + 26, WIDTH - 100
    length = max(end - start, 1e-6)

    def x(at: float) -> float:
        return 90 + plot * (min(max(at, start), end) - start) / length

    out = [_open(height, title)]
    for i, (name, spans) in enumerate(lines):
        y = 4 + 22 * i
        out.append(_text(84, y + 12, name, "end"))
        out.append(f'<rect class="lane" x="90" y="{y}" width="{plot}" height="16"/>')
        for a, b, text in spans:
            out.append(
                f'<rect class="{"bar" if i else "other"}" x="{x(a):.1f}" y="{y}" '
                f'width="{max(1.0, x(b) - x(a)):.1f}" height="16"><title>{escape(text)}</title></rect>'
            )
    for i in range(7):
        at = start + length * i / 6
        out.append(_text(x(at), height - 6, f"{at:.0f} s", "middle"))
    return "".join([*out, "</svg>"])


def _open(height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text.strip())}</text>'
