"""A report as a list of blocks, written as one self-contained HTML page and as Markdown.

A page loads nothing: styles, plots and pictures are inside it. It holds no script, follows the reader's
choice of light or dark, and fits a phone. Jinja2 escapes every text, so that a response or a file name
may hold markup. See the package's docstring for an example.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from livecc_jax.redact import displayable
from livecc_jax.reports.charts import Plot
from livecc_jax.writing import write_text

if TYPE_CHECKING:
    import jinja2

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the report, which stands once, at its beginning."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; a strong one is set in bold."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Facts:
    """The few figures that a reader looks for first, shown large.

    Attributes:
        items: (name, value, note) of each figure; the note may be empty.
    """

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """A table; the first `text_columns` columns are text, the others are numbers set to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


@dataclass(frozen=True)
class Figure:
    """A plot of `charts` with its caption. Markdown shows only the caption, which names the HTML page.

    Attributes:
        plot: The plot.
        caption: One sentence: what is shown, of how many, and what an interval is.
    """

    plot: Plot
    caption: str


@dataclass(frozen=True)
class Picture:
    """A JPEG picture, its size in pixels, and its caption."""

    jpeg: bytes
    width: int
    height: int
    caption: str = ""

    @property
    def address(self) -> str:
        """The picture as a data address."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


@dataclass(frozen=True)
class Pictures:
    """A row of pictures. Markdown shows only the caption.

    Attributes:
        items: The pictures, in order.
        caption: Caption of the row.
        along_timeline: Whether the row is as wide as the time axis of `charts.timeline_chart` below it.
    """

    items: Sequence[Picture]
    caption: str
    along_timeline: bool = False


@dataclass(frozen=True)
class Option:
    """An answer that a question offers.

    Attributes:
        text: The option, with its letter if it has one.
        right: Whether it is the right answer.
        chosen: Whether the model chose it.
    """

    text: str
    right: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Case:
    """One example on a card: what was seen, what was asked, and what was answered.

    Attributes:
        title: Name of the example, such as its id.
        pictures: Frames that were seen; there may be none.
        question: What was asked; it may be empty.
        options: The options of a multiple-choice question.
        facts: (name, text) of whatever else a reader needs, such as the response as it was given.
    """

    title: str
    pictures: Sequence[Picture] = ()
    question: str = ""
    options: Sequence[Option] = ()
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until a reader opens them. Markdown shows them all."""

    summary: str
    blocks: Sequence[Block] = field(default_factory=tuple)


Block = Heading | Text | Facts | Table | Figure | Pictures | Case | Details


def write_html(path: str | Path, blocks: Sequence[Block]) -> None:
    """Writes a page; a file that stands there is replaced at once, when the page is complete.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text(path, to_html(blocks))


def write_markdown(path: str | Path, blocks: Sequence[Block], page: str = "report.html") -> None:
    """Writes the report as Markdown, without plots and pictures.

    Args:
        path: File to write.
        blocks: Blocks of the report.
        page: File name of the HTML page, to which the captions of plots refer.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text(path, to_markdown(blocks, page))


def to_html(blocks: Sequence[Block]) -> str:
    """Renders one HTML page with its styles, plots and pictures inline."""
    title = next((b.text for b in blocks if isinstance(b, Heading)), "Report")
    template = _environment().get_template("page.html")
    style = (HERE / "page.css").read_text(encoding="utf-8")
    return template.render(blocks=blocks, title=title, style=style)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        # Every value that a template prints: no secrets of addresses, no control characters.
        finalize=lambda v: v if isinstance(v, markupsafe.Markup) else displayable(str(v)),
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["trusted"] = markupsafe.Markup
    return environment


def to_markdown(blocks: Sequence[Block], page: str = "report.html") -> str:
    """Renders Markdown.

    Args:
        blocks: Blocks of the report.
        page: File name of the HTML page, to which the captions of plots refer.
    """
    return "\n\n".join(_markdown(block, page) for block in blocks) + "\n"


def _markdown(block: Block, page: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, strong):
            return f"**{_plain(text)}**" if strong else _plain(text)
        case Facts(items):
            return "\n".join(
                f"- {_plain(name)}: {_plain(value)}" + (f" ({_plain(note)})" if note else "")
                for name, value, note in items
            )
        case Figure(_, caption):
            return f"*Plot in {page}: {_plain(caption)}*"
        case Pictures(_, caption):
            return f"*Pictures in {page}: {_plain(caption)}*"
        case Case(title, pictures, question, options, facts):
            lines = [f"**{_plain(title)}**" + (f" (pictures in {page})" if pictures else "")]
            lines += [_plain(question)] if question else []
            for option in options:
                marks = [m for m, on in (("right", option.right), ("chosen", option.chosen)) if on]
                lines.append(f"- {_plain(option.text)}" + (f" ({', '.join(marks)})" if marks else ""))
            lines += [f"- {_plain(name)}: {_plain(text)}" for name, text in facts]
            return "\n".join(lines)
        case Details(summary, inner):
            return "\n\n".join([f"**{_plain(summary)}**", *(_markdown(b, page) for b in inner)])
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
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(displayable(text).split()))
