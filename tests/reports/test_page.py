"""Pages: every text is escaped, nothing is loaded, and Markdown says the same."""

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.reports import charts, drawing, page
from tests.reports.pages import check_page

OPTIONAL = {"small", "figcaption", "p", "thead", "tr", "th"}  # left out where a text is empty
MARKUP = '</p><script>alert("x")</script> "quoted" & $1$'
JPEG = page.Picture(b"\xff\xd8\xff\xd9", 4, 3, MARKUP)


def every_block(text, with_plot=True):
    bars = [charts.Bar(text, 3.0, 2.0, 4.0, text)]
    plot = charts.bar_chart(bars, text, text) if with_plot else charts.Plot("")
    return [
        page.Heading(text, 1),
        page.Text(text),
        page.Text(text, strong=True),
        page.Facts([(text, text, text)]),
        page.Table((text, text), [(text, text)]),
        page.Figure(plot, text),
        page.Pictures([JPEG], text),
        page.Case(text, [JPEG], text, [page.Option(text, right=True)], [(text, text)]),
        page.Details(text, [page.Text(text)]),
    ]


def test_every_text_is_escaped_and_shown():
    text = page.to_html(every_block(MARKUP))
    found, drawings = check_page(text)
    assert "<title>&lt;/p&gt;" in text
    assert len(drawings) == 1
    # Shown as it is: once in the page's title, and wherever a block shows it as text.
    assert sum(t.strip() == MARKUP for t in found.texts) >= 18
    assert any(MARKUP in (e.text or "") for e in drawings[0].iter())


@given(st.text(st.sampled_from("<>&\"'`|*_[]()#\\/ab \n\x00\x1b\u202e{}%$"), max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_text_is_markup(text):
    blocks = every_block(text, with_plot=False)
    tags, plain = (
        [t for t in check_page(page.to_html(b))[0].tags if t not in OPTIONAL]
        for b in (blocks, every_block("x", with_plot=False))
    )
    assert tags == plain
    markdown = page.to_markdown(blocks)
    assert "<" not in markdown.replace("\\<", "")


def test_secrets_and_control_characters_are_not_shown():
    text = page.to_html(every_block("rtsp://me:hunter2@door/live \x1b[31m"))
    check_page(text)
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "rtsp://***@door/live" in text


def test_markdown_has_the_same_blocks():
    text = page.to_markdown(every_block("a|b *c*"), page="index.html")
    assert text.startswith("# a\\|b \\*c\\*\n")
    assert "*Plot in index.html: a\\|b \\*c\\**" in text
    assert "- a\\|b \\*c\\* (right)" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_written_files(tmp_path):
    blocks = every_block("one")
    page.write_html(tmp_path / "report.html", blocks)
    page.write_markdown(tmp_path / "report.md", blocks)
    assert (tmp_path / "report.html").read_text() == page.to_html(blocks)
    assert (tmp_path / "report.md").read_text() == page.to_markdown(blocks)


def test_the_right_and_the_chosen_option_are_marked():
    options = [page.Option("A", right=True), page.Option("B", chosen=True), page.Option("C")]
    text = page.to_html([page.Case("q", options=options)])
    items = re.findall(r"<li.*?</li>", text, re.DOTALL)
    assert [re.findall(r"<b>(\w+)</b>", item) for item in items] == [["right"], ["chosen"], []]


def test_without_matplotlib_a_page_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plot = charts.bar_chart([charts.Bar("a", 1.0)], "t")
    assert plot.svg == ""
    text = page.to_html([page.Figure(plot, "the caption")])
    check_page(text)
    assert "pip install &#39;livecc_jax[report]&#39;" in text
    assert "the caption" in text


@pytest.mark.parametrize("text", ["a\x00b", "x" * 5000, "", "\ud800", "  \n "])
def test_any_text_may_stand_in_a_plot(text):
    plot = drawing.draw(lambda axes, tips: axes.set_xlabel(drawing.clean(text)), 50, text)
    check_page(page.to_html([page.Figure(plot, text)]))
