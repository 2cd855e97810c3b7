"""Plots: drawn lengths and counts are those of the data, and the same data draws the same plot."""

import math
import random
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.reports import charts
from livecc_jax.reports.charts import Bar, Lane, Line, Span, Stage

SVG = "{http://www.w3.org/2000/svg}"


def marked(plot):
    """Boxes (left, top, right, bottom) of the parts that have a tooltip, with that text."""
    found = {}
    for group in ElementTree.fromstring(plot.svg).iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if title is not None:
            path = group.find(f".//{SVG}path").get("d")
            points = np.array([float(v) for v in re.findall(r"-?[\d.]+", path)]).reshape(-1, 2)
            found[title.text] = (*points.min(0), *points.max(0))
    return found


def texts(plot):
    return [e.text for e in ElementTree.fromstring(plot.svg).iter(f"{SVG}text")]


def test_bars_are_as_long_as_their_values():
    plot = charts.bar_chart([Bar("a", 10.0, note="of 3"), Bar("b", 40.0, 35.0, 45.0)], "t", "percent")
    boxes = marked(plot)
    (a, b) = (boxes[name] for name in ("a: 10.0 of 3", "b: 40.0"))
    assert (b[2] - b[0]) / (a[2] - a[0]) == pytest.approx(4, rel=0.01)
    assert a[3] < b[1]  # the first is on top
    assert {"a", "b", "10.0 of 3", "40.0", "percent"} <= set(texts(plot))


def test_an_interval_is_drawn_only_where_there_is_one():
    whiskers = [
        charts.bar_chart([Bar("a", 10.0, *ends)], "t").svg.count("stroke: var(--ink)")
        for ends in ((), (5.0, 15.0))
    ]
    assert whiskers[0] == 0
    assert whiskers[1] > 0


def test_numbers_in_words_stay_as_they_are():
    plot = charts.bar_chart([Bar("0.125 of 3.75", 0.625, note="of 1.2345")], "1.5555", digits=3)
    assert {"0.125 of 3.75", "0.625 of 1.2345"} <= set(texts(plot))
    assert "1.5555" in plot.svg
    assert "0.25" in texts(charts.line_chart([Line("a", [0, 1], [0, 1])], "t", "0.25", "y"))


def test_a_reference_line_is_named():
    plot = charts.bar_chart([Bar("a", 50.0)], "t", reference=25.0, reference_name="guessing")
    assert "guessing" in texts(plot)
    assert "stroke-dasharray" in plot.svg
    without = charts.bar_chart([Bar("a", 50.0)], "t", reference=math.nan, reference_name="guessing")
    assert "guessing" not in texts(without)
    assert "stroke-dasharray" not in without.svg


def test_funnel_states_what_is_left_and_what_is_lost():
    plot = charts.funnel_chart([Stage("in", 2000), Stage("kept", 500, "(rate)")], "t")
    assert {"2,000 100%", "500 25% -1,500 (rate)"} <= set(texts(plot))
    boxes = marked(plot)
    lengths = [box[2] - box[0] for box in boxes.values()]
    assert lengths[0] / lengths[1] == pytest.approx(4, rel=0.01)


@given(st.lists(st.integers(-5, 40), max_size=200), st.sampled_from([1, 4, 16, 32]))
@settings(max_examples=60, deadline=None)
def test_bins_hold_every_value_once(values, bins):
    counts = charts.count_in_bins(values, 0, 32, bins)  # edges that floats hold exactly
    inside = np.clip(values, 0, 31.5) if values else []
    assert counts == np.histogram(inside, bins, (0, 32))[0].tolist()


def test_histogram_counts_as_numpy_does():
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(500)]
    plot = charts.histogram(values, "t", "seconds", bins=10, trim=False)
    shown = [int(name.rpartition(": ")[2]) for name in marked(plot)]
    assert shown == np.histogram(values, 10)[0].tolist()


def test_histogram_ends_hold_outliers():
    values = [*([0.0, 1.0] * 500), 1e9, math.nan, math.inf]
    plot = charts.histogram(values, "t", "s", bins=2)
    assert [int(name.rpartition(": ")[2]) for name in marked(plot)] == [500, 501]


def test_lines_have_bands_and_a_legend():
    lines = [Line("one", [1, 2, 4], [1, 2, 3], [0, 1, 2], [2, 3, 4]), Line("two", [1, 4], [2, 2])]
    plot = charts.line_chart(lines, "t", "streams", "ms", x_log=True)
    assert {"one", "two", "streams", "ms", "1", "2", "4"} <= set(texts(plot))
    assert plot.svg.count("fill-opacity: 0.2") >= 1
    plain = charts.line_chart([Line("two", [1, 4], [2, 2])], "t", "x", "y")
    assert "fill-opacity: 0.2" not in plain.svg


def test_timeline_spans_lie_where_they_belong():
    lanes = [Lane("due", [Span(0, 10, "a"), Span(20, 30, "b")]), Lane("said", [Span(5, 99, "c")])]
    boxes = marked(charts.timeline_chart(lanes, 0, 30, "t"))
    length = boxes["b"][2] - boxes["a"][0]
    assert boxes["a"][2] - boxes["a"][0] == pytest.approx(length / 3, abs=0.3)
    assert boxes["c"][0] - boxes["a"][0] == pytest.approx(length / 6, abs=0.3)
    assert boxes["c"][2] == pytest.approx(boxes["b"][2], abs=0.2)  # it ends with the axis
    # Pictures in a row beside it are as wide: `.strip.along` of the page's style.
    assert boxes["a"][0] == pytest.approx(0.125 * 760, abs=0.3)
    assert length == pytest.approx(0.861 * 760, abs=0.5)


def test_columns_on_a_logarithmic_axis():
    columns = [(0, 1, 10.0), (1, 2, 100.0), (4, 6, 1000.0)]
    boxes = list(marked(charts.column_chart(columns, "t", "s", "perplexity", y_log=True)).values())
    tops = [box[1] for box in boxes]
    assert tops[0] - tops[1] == pytest.approx(tops[1] - tops[2], abs=0.2)
    assert tops[0] > tops[1]
    assert boxes[2][2] - boxes[2][0] == pytest.approx(2 * (boxes[0][2] - boxes[0][0]), abs=0.2)
    assert boxes[1][0] - boxes[0][0] == pytest.approx((boxes[2][0] - boxes[0][0]) / 4, abs=0.2)


@pytest.mark.parametrize(
    "plot",
    [
        charts.bar_chart([], "t"),
        charts.bar_chart([Bar("a", math.nan)], "t"),
        charts.line_chart([Line("a", [1], [math.nan])], "t", "x", "y"),
        charts.histogram([math.nan], "t", "x"),
        charts.column_chart([], "t", "x", "y"),
        charts.funnel_chart([Stage("in", 0)], "t"),
    ],
)
def test_nothing_to_plot_is_said(plot):
    assert plot.svg == ""
    assert plot.note == "There is nothing to plot."


def test_the_same_data_draws_the_same_plot():
    one, two = (charts.histogram([1, 2, 2, 3], "t", "x") for _ in range(2))
    assert one == two


def test_colours_follow_the_page():
    svg = charts.bar_chart([Bar("a", 1.0, 0.5, 1.5)], "t", "x").svg
    assert "var(--c0)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
