"""The chart of retention curves holds the numbers as given and says what it cuts off."""

from dataclasses import replace

import pytest

from sparsedial.report.charts.retention import draw_retention
from tests.support.chart_contents import chart_data, chart_text
from tests.support.report_sample import sample


def draw(results):
    return draw_retention(results.points, results.critical, results.retain)


def test_it_holds_the_numbers_as_given(results):
    points = [row for row in chart_data(draw(results)) if row["kind"] == "point" and row["site"] == "gate"]
    gate = results.points[results.points["site"] == "gate"]
    assert [row["sparsity"] for row in points] == gate["sparsity"].tolist()
    assert [row["retention"] for row in points] == gate["retention"].tolist()


def test_a_curve_starts_at_dense_and_a_lower_bound_is_marked_as_one(results):
    critical = results.critical.assign(status=["right-censored", *["crossed"] * 4])
    chart = draw(replace(results, critical=critical))
    data = chart_data(chart)
    assert [(row["sparsity"], row["retention"]) for row in data if row["kind"] == "dense"] == [(0.0, 1.0)] * 5
    assert [row["site"] for row in data if row["kind"] == "bound"] == ["input"]
    assert "triangles" in chart_text(chart)


def test_sites_keep_their_order_and_colour_whichever_are_measured():
    scales = []
    for sites in (("gate", "input"), ("all_inputs", "gate", "new")):
        chart = draw(sample(sites=sites, points=2, layers=2))
        scale = chart.to_dict()["layer"][1]["encoding"]["color"]["scale"]
        scales.append(dict(zip(scale["domain"], scale["range"], strict=True)))
    first, second = scales
    assert list(first) == ["input", "gate"]
    assert list(second) == ["gate", "all_inputs", "new"]
    assert first["gate"] == second["gate"]
    assert len(set(second.values())) == 3


@pytest.mark.parametrize(
    ("chosen_by", "note"),
    [
        (["search"], "the points were chosen by the adaptive search"),
        (["grid"], ""),
        (["search", "grid"], "large points were chosen"),
    ],
)
def test_points_of_the_search_and_of_a_grid_differ(chosen_by, note):
    results = sample(sites=("input",), points=4)
    chart = draw(replace(results, points=results.points.assign(chosen_by=(chosen_by * 4)[:4])))
    text = chart_text(chart)
    assert note in text
    assert ("chosen by the adaptive search" in text) == ("search" in chosen_by)
    layers = [layer for layer in chart.to_dict()["layer"] if "size" in layer["encoding"]]
    scale = layers[0]["encoding"]["size"]["scale"]
    sizes = dict(zip(scale["domain"], scale["range"], strict=True))
    assert sizes["search"] > sizes["grid"]


def test_missing_intervals_and_invalid_points_are_not_drawn(results):
    points = results.points.copy()
    points.loc[0, "retention"] = float("nan")
    points[["low", "high"]] = float("nan")
    chart = draw(replace(results, points=points))
    data = [row for row in chart_data(chart) if row["kind"] == "point"]
    assert len(data) == len(points) - 1
    assert all(row["low"] is None for row in data)
    assert "NaN" not in chart_text(chart)


def test_an_error_is_raised_if_there_is_nothing_to_draw(results):
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(replace(results, points=results.points.assign(retention=float("nan"))))


def test_the_axis_shows_the_crossing_and_says_what_it_cuts_off(results):
    retention = results.points["retention"].where(results.points["sparsity"] < 0.3, 0.05)
    chart = draw(replace(results, points=results.points.assign(retention=retention)))
    threshold, interval = chart.to_dict()["layer"][:2]
    low, high = threshold["encoding"]["y"]["scale"]["domain"]
    assert 0.7 < low < 0.9 < 1.0 < high < 1.1
    assert interval["encoding"]["x"]["scale"]["domain"][1] < 0.5  # the last point, at 78%, is not visible
    assert "cut off" in chart_text(chart)
