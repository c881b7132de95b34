"""The chart of the sites of a model holds the numbers as given."""

import pandas as pd

from sparsedial.report.charts.rendering import to_svg
from sparsedial.report.charts.site_comparison import draw_sites
from tests.support.chart_contents import chart_data, chart_text


def test_it_holds_the_numbers_as_given(results):
    data = chart_data(draw_sites(results.critical, 0.99))
    assert [row["sparsity"] for row in data] == [0.18, 0.19, 0.16, 0.39, 0.23]


def test_a_lower_bound_is_marked_as_one(results):
    critical = results.critical.assign(status=["right-censored", *["crossed"] * 4])
    assert "≥ 18.0%" in chart_text(draw_sites(critical, 0.99))


def test_missing_intervals_are_not_drawn(results):
    critical = results.critical.astype({"low": "Float64", "high": "Float64"})
    critical[["low", "high"]] = pd.NA
    assert "NaN" not in to_svg(draw_sites(critical, 0.99))


def test_selections_of_layers_are_panels_of_their_own(results):
    all_layers = results.critical.assign(layers=None)
    both = pd.concat([all_layers, all_layers.assign(layers=[[0, 1, 2]] * 5)])
    panels = [row["panel"] for row in chart_data(draw_sites(both, 0.99))]
    assert panels == ["layers all"] * 5 + ["layers 0–2"] * 5
