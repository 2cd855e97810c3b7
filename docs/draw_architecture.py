"""Draws the architecture: what training and streaming share. Writes docs/architecture.svg.

python docs/draw_architecture.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

OUT = Path(__file__).with_name("architecture.svg")
WIDTH, HEIGHT = 920, 400
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1c1e21; } .small { font-size: 12px; }
.mono { font: 12px ui-monospace, monospace; } .faint { fill: #5b6470; }
.box { fill: #eef2f8; stroke: #3b6ea8; } .both { fill: #e9f4ec; stroke: #2f8a5b; }
.frame { fill: #b9770e; } .label { fill: #cfd6e0; } .words { fill: #cfe6d6; }
.arrow { stroke: #5b6470; fill: none; stroke-width: 1.5; marker-end: url(#tip); }
#tip path { fill: #5b6470; } .paper { fill: #fff; }
@media (prefers-color-scheme: dark) { text { fill: #e4e6ea; } .faint { fill: #9ca3af; }
.box { fill: #1d2733; stroke: #6a9fd8; } .both { fill: #1b2a21; stroke: #63bf8e; }
.frame { fill: #d9a65c; } .label { fill: #3a3e45; } .words { fill: #2a4434; }
.arrow { stroke: #9ca3af; } #tip path { fill: #9ca3af; } .paper { fill: #16181c; } }
"""
TURNS = (
    ("0-3 s", 6, "A big rabbit comes ..."),
    ("3-4 s", 2, "out of his burrow ..."),
)


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "middle") -> str:
    """Writes a line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(said)}</text>'


def box(x: float, y: float, width: float, title: str, note: str, kind: str = "box") -> str:
    """Draws a box with a title and a note."""
    middle = x + width / 2
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="52" rx="8"/>'
        + text(middle, y + 22, title)
        + text(middle, y + 41, note, "small faint")
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Draws a straight arrow."""
    return f'<path class="arrow" d="M{x1} {y1} L{x2} {y2}"/>'


def row(y: float, stops: list[tuple[str, str, str]]) -> str:
    """Draws boxes of one row, each leading to the next."""
    width, gap = 148, 38
    out = []
    for i, (title, note, kind) in enumerate(stops):
        x = 20 + i * (width + gap)
        out.append(box(x, y, width, title, note, kind))
        if i:
            out.append(arrow(x - gap + 2, y + 26, x - 4, y + 26))
    return "".join(out)


def timeline(y: float) -> str:
    """Draws the turns of one example: time label, frames, words."""
    x, out = 20.0, [text(20, y - 10, "one timeline: what was seen when, and said when", "", "start")]
    for label, frames, words in TURNS:
        out.append(f'<rect class="label" x="{x}" y="{y}" width="50" height="34" rx="4"/>')
        out.append(text(x + 25, y + 22, label, "mono"))
        x += 54
        for _ in range(frames):
            out.append(f'<rect class="frame" x="{x}" y="{y}" width="13" height="34" rx="2"/>')
            x += 15
        width = 7.3 * len(words) + 8
        out.append(f'<rect class="words" x="{x + 2}" y="{y}" width="{width:.0f}" height="34" rx="4"/>')
        out.append(text(x + 2 + width / 2, y + 22, words, "mono"))
        x += width + 8
    return "".join(out)


def draw() -> str:
    """Returns the drawing."""
    training = [
        ("annotations", "clips and timed words", "box"),
        ("index", "sizes, frame times", "box"),
        ("packed rows", "static shapes", "box"),
        ("training step", "over a device mesh", "box"),
        ("checkpoint", "Orbax, HuggingFace", "box"),
    ]
    streaming = [
        ("file or camera", "many at once", "box"),
        ("frames", "2 a second", "box"),
        ("turns", "3 s, then 1 s each", "box"),
        ("engine", "KV cache, sampling", "box"),
        ("words", "text, VTT, SRT, JSONL", "box"),
    ]
    network = box(604, 172, 308, "network", "vision tower, merger, decoder", "both")
    parts = [
        row(20, training),
        timeline(180),
        network,
        row(328, streaming),
        arrow(466, 74, 466, 150),  # rows are timelines
        arrow(466, 326, 466, 222),  # so are turns
        arrow(652, 170, 652, 76),  # the step runs the network
        arrow(652, 226, 652, 326),  # and so does the engine
        arrow(838, 74, 838, 168),  # a checkpoint holds its weights
        text(
            20, 262, "training and streaming make tokens and positions in one place,", "small", "start"
        ),
        text(20, 280, "so what is streamed is what was trained on", "small", "start"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Training and streaming share one timeline and one network">'
        f"<style>{STYLE}</style>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    OUT.write_text(draw(), encoding="utf-8")
    print(OUT)
