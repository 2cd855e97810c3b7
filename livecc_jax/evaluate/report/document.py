"""A report as a list of blocks, rendered as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the report."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; a strong one is set in bold."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first `text_columns` columns are text, the others are numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


@dataclass(frozen=True)
class Figure:
    """An SVG plot. Markdown shows only its caption and refers to the HTML page."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Pictures:
    """A row of captioned JPEG pictures, as wide as the time axis of `svg.timeline_chart` below it.

    Markdown shows only the caption.

    Attributes:
        items: (JPEG data, width in pixels, height in pixels, caption) of each picture.
        caption: Caption of the row.
    """

    items: Sequence[tuple[bytes, int, int, str]]
    caption: str


Block = Heading | Text | Table | Figure | Pictures

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #d9dce1; --bar: #3b6ea8;
  --other: #c08a3e; --whisker: #1c1e21; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #16181c; --faint: #3a3e45;
  --bar: #6a9fd8; --other: #d9a65c; --whisker: #e4e6ea; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; font-size: 0.9rem; } .wide { overflow-x: auto; }
th, td { padding: 0.15rem 0.7rem 0.15rem 0; border-bottom: 1px solid var(--faint); text-align: left;
  vertical-align: top; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--ink); }
svg .bar { fill: var(--bar); } svg .other { fill: var(--other); } svg .lane { fill: none;
  stroke: var(--faint); } svg .grid { stroke: var(--faint); } svg .whisker { stroke: var(--whisker);
  fill: none; stroke-width: 1.2; }
.strip { display: flex; gap: 2px; margin-left: 12.5%; width: 86.1%; }
.strip figure { flex: 1 1 0; margin: 0; text-align: center; } .strip img { width: 100%; height: auto; }
figure { margin: 1rem 0; } figcaption { font-size: 0.85rem; opacity: 0.8; }
"""


def to_html(blocks: Sequence[Block]) -> str:
    """Renders one HTML page with its styles and plots inline."""
    title = next((b.text for b in blocks if isinstance(b, Heading)), "Report")
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def to_markdown(blocks: Sequence[Block], page: str = "report.html") -> str:
    """Renders Markdown.

    Args:
        blocks: Blocks of the report.
        page: File name of the HTML page, to which the captions of plots refer.
    """
    return "\n\n".join(_markdown(block, page) for block in blocks) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text, strong):
            inner = escape(text)
            return f"<p><strong>{inner}</strong></p>" if strong else f"<p>{inner}</p>"
        case Figure(svg, caption):
            return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        case Pictures(items, caption):
            figures = "".join(
                f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" '
                f'width="{width}" height="{height}" alt="{escape(text, quote=True)}">'
                f"<figcaption>{escape(text)}</figcaption></figure>"
                for jpeg, width, height, text in items
            )
            label = escape(caption, quote=True)
            return f'<div class="strip" role="group" aria-label="{label}">{figures}</div>'
        case Table(heads, rows, text_columns):

            def line(cells: Sequence[str], tag: str) -> str:
                return "<tr>" + "".join(
                    f"<{tag}{'' if i < text_columns else ' class=n'}>{escape(cell)}</{tag}>"
                    for i, cell in enumerate(cells)
                ) + "</tr>"  # fmt: skip

            body = "".join(line(row, "td") for row in rows)
            head = line(heads, "th")
            return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _markdown(block: Block, page: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, strong):
            return f"**{_plain(text)}**" if strong else _plain(text)
        case Figure(_, caption):
            return f"*Plot in {page}: {_plain(caption)}*"
        case Pictures(_, caption):
            return f"*Pictures in {page}: {_plain(caption)}*"
        case Table(heads, rows, text_columns):
            rule = ["---" if i < text_columns else "---:" for i in range(len(heads))]
            return "\n".join(
                "| " + " | ".join(cells) + " |"
                for cells in (
                    [_plain(h) for h in heads],
                    rule,
                    *([_plain(cell) for cell in row] for row in rows),
                )
            )


def _plain(text: str) -> str:
    """Escapes Markdown's special characters, and joins lines: a line break would end a table row."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
