"""Estimates are drawn with closed or open ends, and their names and numbers do not overlap."""

import re

import pytest

from sparsedial.report.plots.interval_panel import IntervalPlot, IntervalRow, axis_range, draw_interval_panel
from sparsedial.report.plots.palette import LineStyle
from sparsedial.report.plots.plot_frame import LABEL_SIZE
from sparsedial.report.plots.svg_elements import text_width

STYLE = LineStyle("input", "circle", "")


def row(**changes):
    values = {
        "name": "input",
        "label": "20.0% (10.0–30.0%)",
        "tooltip": "about it",
        "value": 0.2,
        "low": 0.1,
        "high": 0.3,
    }
    return IntervalRow(style=STYLE, **{**values, **changes})


def draw(*rows, **changes):
    return draw_interval_panel(IntervalPlot("", "share", 0.0, 0.5, rows, **changes), 400)


def interval_paths(panel):
    return re.findall(r'class="e" d="([^"]+)"', panel.content)


def test_closed_ends_have_caps_and_an_open_end_has_an_arrow():
    (closed,) = interval_paths(draw(row()))
    (opened,) = interval_paths(draw(row(is_high_open=True)))
    assert closed.count("v10") == 2
    assert opened.count("v10") == 1 and "L" in opened


@pytest.mark.parametrize(("is_bound", "marks"), [(False, ["m"]), (True, ["o"])])
def test_a_lower_bound_is_an_open_mark(is_bound, marks):
    assert re.findall(r'class="([mo])"', draw(row(is_bound=is_bound)).content) == marks


def test_rows_without_an_interval_or_without_an_estimate_are_drawn():
    assert interval_paths(draw(row(low=None, high=None))) == []
    assert re.findall(r'class="([mo])"', draw(row(value=None)).content) == []


def test_a_long_name_is_shortened_so_that_it_does_not_reach_the_number():
    panel = draw(row(name="a-model-with-a-very-long-name-that-does-not-fit-beside-its-number"))
    name = re.search(r'class="n"[^>]*>([^<]+)<', panel.content)[1]
    assert "…" in name
    assert text_width(name, LABEL_SIZE) + text_width("20.0% (10.0–30.0%)", LABEL_SIZE) < 400
    assert "that-does-not-fit" in panel.description


def test_the_axis_of_differences_reaches_below_0_and_marks_it():
    rows = (row(value=-0.1, low=-0.2, high=0.05),)
    low, high = axis_range(rows, 0.05)
    assert low < -0.2 and high >= 0.05
    plot = IntervalPlot("", "difference", low, high, rows, is_difference=True)
    assert draw_interval_panel(plot, 400).content.count('class="th"') == 1
    assert axis_range((row(),), 0.05)[0] == 0.0
