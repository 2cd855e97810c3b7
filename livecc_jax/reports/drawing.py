"""Draws with matplotlib onto SVG that a page can hold: its colours, its font, no foreign parts.

Matplotlib writes a document of its own: fixed colours and size, ids that other plots of the page have
too, metadata. Here colours become variables of the page's style, so that a plot follows light and dark.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from livecc_jax.redact import displayable

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

WIDTH = 460  # pixels of the drawing; a page scales it, and on a phone its letters stay readable
WIDE = 760
FONT_SIZE = 11

# Colours that stand for variables of the page's style. Matplotlib wants six digits.
INK, FAINT = "#000001", "#000002"
SERIES = tuple(f"#0000c{i}" for i in range(6))
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"} | {
    color: f"var(--c{i})" for i, color in enumerate(SERIES)
}
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "livecc",  # the same ids in every run
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 1.0,
    "axes.unicode_minus": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
MISSING = "This plot needs matplotlib: pip install 'livecc_jax[report]'."
EMPTY = "There is nothing to plot."
_GEOMETRY = ("d", "x", "y", "width", "height", "transform")  # a tenth of a pixel is enough
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        svg: The drawing, one `svg` element; empty if there is none.
        note: Why there is no drawing; empty if there is one.
        wide: Whether the drawing takes the page's full width.
    """

    svg: str
    note: str = ""
    wide: bool = False


class Tooltips:
    """Texts that a browser shows over parts of a plot."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, artist: Artist, text: str) -> None:
        """Gives a part of the plot its text."""
        name = f"tooltip{len(self.texts)}"
        artist.set_gid(name)
        self.texts[name] = clean(text)


def draw(
    paint: Callable[[Axes, Tooltips], None], height: float, title: str, *, wide: bool = False
) -> Plot:
    """Draws a plot with one pair of axes.

    Args:
        paint: Paints on the axes, and names texts of its parts.
        height: Height of the drawing in pixels.
        title: What a screen reader says of the plot.
        wide: Whether the plot takes the page's full width.

    Returns:
        The plot. Without matplotlib it is a note that says how to get it: a report is useful without
        plots, and may end a run of hours.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        log.warning("plots are left out of the report: %s", MISSING)
        return Plot("", MISSING, wide)
    width = WIDE if wide else WIDTH
    tooltips, file = Tooltips(), io.StringIO()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has it
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.tick_params(length=0)
        paint(axes, tooltips)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(_inline(file.getvalue(), clean(title), tooltips.texts), wide=wide)


def clean(text: str, most: int = 200) -> str:
    """Returns a text that may stand in a plot: displayable, on one line, and not long."""
    text = " ".join(displayable(text).split())
    text = re.sub(r"[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)  # what XML forbids
    return text if len(text) <= most else text[: most - 1] + "…"


def _inline(document: str, title: str, tooltips: dict[str, str]) -> str:
    """Turns matplotlib's document into one element of a page."""
    for color, variable in _VARIABLES.items():
        document = document.replace(color, variable)
    document = re.sub(r"font-family: [^;\"]*", "font-family: inherit", document)
    document = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", document)
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.tag.endswith("}style"):
                parent.remove(child)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', document))
    prefix = "p" + hashlib.sha256((title + document).encode()).hexdigest()[:8]
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in tooltips:
            label = ElementTree.Element(f"{{{_SVG}}}title")
            label.text = tooltips[name]
            element.insert(0, label)
        if name in used:
            element.set("id", f"{prefix}{name}")
        for key, value in element.attrib.items():
            if key == f"{{{_XLINK}}}href":
                element.set(key, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{prefix}"))
            elif key in _GEOMETRY:
                element.set(key, re.sub(r"(\d+\.\d)\d+", r"\1", value))
        if element.tag.endswith("}text"):
            turn = element.get("transform", "")
            if turn.startswith("rotate(-0 "):
                del element.attrib["transform"]
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", title)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    text = re.sub(r"\s+", " ", ElementTree.tostring(root, encoding="unicode"))
    return text.replace("> <", "><")
