"""The figure of retention curves holds the numbers as given and says what it cuts off."""

from dataclasses import replace

import pytest

from sparsedial.report.figures.retention_figures import make_retention_figure
from tests.support.figure_contents import figure_text, marks, tooltips
from tests.support.report_sample import sample


def draw(results, **changes):
    return make_retention_figure("retention", results.points, results.critical, results.retain, **changes)


def test_every_visible_point_tells_its_numbers(results):
    texts = tooltips(draw(results))
    gate = results.points[results.points["site"] == "gate"].iloc[1]
    expected = f"gate · p = {gate['p']:.4g} · sparsity {100 * gate['sparsity']:.1f}% · retention"
    assert [text for text in texts if text.startswith(expected)]
    assert "gate · critical sparsity 16.0% (14.8–17.4%)" in texts


def test_a_curve_starts_at_dense_and_a_lower_bound_is_an_open_triangle(results):
    critical = results.critical.assign(status=["right-censored", *["crossed"] * 4])
    figure = draw(replace(results, critical=critical))
    (panel,) = figure.panels
    left, top = (float(value) for value in panel.layout["data-x"].split()[2:]), panel.layout["data-y"].split()
    start = next(iter(left))
    paths = marks(panel, "l")
    assert len(paths) == 5
    assert all(path.get("d").startswith(f"M{start:.0f} ") for path in paths)
    assert "input · critical sparsity ≥ 18.0% (16.8–19.4%)" in tooltips(figure)
    assert "Open triangles are lower bounds" in figure_text(figure)
    assert len(marks(panel, "o")) == 5 and top


def test_sites_keep_their_order_and_style_whichever_are_measured():
    legends = [draw(sample(sites=sites, points=2, layers=2)).legend for sites in (("gate", "input"), ("new", "gate"))]
    assert list(legends[0]) == ["input", "gate"]
    assert list(legends[1]) == ["gate", "new"]
    assert legends[0]["gate"] == legends[1]["gate"]


@pytest.mark.parametrize(
    ("chosen_by", "note"),
    [
        (["search"], "The points were chosen by the adaptive search."),
        (["grid"], ""),
        (["search", "grid"], "Large points were chosen"),
    ],
)
def test_points_of_the_search_and_of_a_grid_differ(chosen_by, note):
    results = sample(sites=("input",), points=4)
    figure = draw(replace(results, points=results.points.assign(chosen_by=(chosen_by * 4)[:4])))
    text = figure_text(figure)
    assert note in text
    assert ("chosen by the adaptive search" in text) == ("search" in chosen_by)
    sizes = {mark.get("transform").split("scale")[1] for mark in marks(figure.panels[0], "m")}
    assert len(sizes) == len(chosen_by)


def test_missing_intervals_and_invalid_points_are_not_drawn(results):
    points = results.points.copy()
    points.loc[0, "retention"] = float("nan")
    points[["low", "high"]] = float("nan")
    (panel,) = draw(replace(results, points=points)).panels
    whole = draw(results).panels[0]
    assert len(marks(panel, "m")) == len(marks(whole, "m")) - 1
    assert marks(panel, "i") == [] and len(marks(whole, "i")) == len(results.points)
    assert "nan" not in panel.content.lower()


def test_an_error_is_raised_if_there_is_nothing_to_draw(results):
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(replace(results, points=results.points.assign(retention=float("nan"))))


def test_the_axis_shows_the_crossing_and_says_what_it_cuts_off(results):
    retention = results.points["retention"].where(results.points["sparsity"] < 0.3, 0.05)
    figure = draw(replace(results, points=results.points.assign(retention=retention)))
    low, high = (float(value) for value in figure.panels[0].layout["data-y"].split()[:2])
    assert 0.7 < low < 0.9 < 1.0 < high < 1.1
    right = float(figure.panels[0].layout["data-x"].split()[1])
    assert right < 0.5  # the last point, at 78%, is not visible
    assert "cut off" in figure_text(figure)


def test_models_are_compared_with_a_panel_per_site():
    results = sample(models=("base", "instruct"), sites=("input", "gate"), points=3, layers=1)
    figure = draw(results, subject="model")
    assert [panel.title for panel in figure.panels] == ["input", "gate"]
    assert list(figure.legend) == ["base", "instruct"]
    assert figure.heading == "Retention of each model"
