"""The charts hold the numbers they were given, in fixed colours, and draw whatever there is."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pandas as pd
import pytest
from report_sample import sample

from sparsedial.report import drawing, figures, within

HOSTILE = "<script>alert(1)</script>\"'\\' + datum.x \x1b[31m\x00"


def rows(chart):
    """The data inside a chart."""
    (values,) = chart.to_dict()["datasets"].values()
    return values


def text_of(svg):
    """All that an SVG shows as text."""
    return "".join(ET.fromstring(svg).itertext())


def draw(results):
    """The three charts of some results."""
    return [
        figures.critical_sparsities(results.critical, results.retain),
        figures.retention(results.points, results.critical, results.retain),
        within.layer_profile(results.layers),
    ]


def test_charts_hold_the_numbers_as_given(results):
    critical, curves, layers = draw(results)
    assert [row["value"] for row in rows(critical)] == [0.18, 0.19, 0.16, 0.39, 0.23]
    points = [row for row in rows(curves) if row["kind"] == "point" and row["site"] == "gate"]
    gate = results.points[results.points["site"] == "gate"]
    assert [row["sparsity"] for row in points] == gate["sparsity"].tolist()
    assert [row["retention"] for row in points] == gate["retention"].tolist()
    assert sorted(row["sparsity"] for row in rows(layers)) == sorted(results.layers["sparsity"])
    assert {row["line"] for row in rows(layers)} >= {"input", "all_inputs: input", "all_inputs: intermediate"}


def test_a_curve_starts_at_dense_and_a_lower_bound_is_marked_as_one(results):
    critical = results.critical.assign(status=["beyond", *["crossed"] * 4])
    drawn = rows(figures.retention(results.points, critical, 0.99))
    assert [(r["sparsity"], r["retention"]) for r in drawn if r["kind"] == "dense"] == [(0.0, 1.0)] * 5
    assert [r["site"] for r in drawn if r["kind"] == "bound"] == ["input"]
    assert "triangles" in text_of(drawing.to_svg(figures.retention(results.points, critical, 0.99)))
    assert "≥ 18.0%" in text_of(drawing.to_svg(figures.critical_sparsities(critical, 0.99)))


def test_sites_keep_their_order_and_colour_whichever_are_there():
    scales = {}
    for sites in (("gate", "input"), ("all_inputs", "gate", "new")):
        few = sample(sites=sites, points=2, layers=2)
        scale = figures.retention(few.points, few.critical, 0.99).to_dict()["layer"][1]["encoding"]["color"]["scale"]
        scales[sites] = dict(zip(scale["domain"], scale["range"], strict=True))
    first, second = scales.values()
    assert list(first) == ["input", "gate"]
    assert list(second) == ["gate", "all_inputs", "new"]
    assert first["gate"] == second["gate"]
    assert len(set(second.values())) == 3


@pytest.mark.parametrize(
    "given",
    [
        {"points": 1, "layers": 1, "sites": ("intermediate",)},
        {"models": ("a", "b"), "points": 2, "layers": 2},
        {"tasks": ("arc_easy", "piqa", "lambada", "average"), "sites": ("input",), "points": 2, "layers": 2},
    ],
    ids=["one of each", "two models", "tasks"],
)
def test_draws_what_there_is(given):
    for chart in draw(sample(**given)):
        text = text_of(drawing.to_svg(chart))
        assert all(name in text for name in given.get("models", ()))
        assert ("task average" in text) == ("tasks" in given)
        assert "undefined" not in text and "NaN" not in text


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["search"], "the points were chosen by the search"),
        (["grid"], ""),
        (["search", "grid"], "large points were chosen"),
    ],
)
def test_points_of_the_search_and_of_a_grid_differ(chosen, said):
    few = sample(sites=("input",), points=4)
    chart = figures.retention(few.points.assign(chosen_by=(chosen * 4)[:4]), few.critical, 0.99)
    text = text_of(drawing.to_svg(chart))
    assert (said in text) and (("chosen by the search" in text) == ("search" in chosen))
    marks = [layer for layer in chart.to_dict()["layer"] if "size" in layer["encoding"]]
    sizes = dict(zip(*(marks[0]["encoding"]["size"]["scale"][k] for k in ("domain", "range")), strict=True))
    assert sizes["search"] > sizes["grid"]


def test_missing_intervals_and_invalid_points_are_not_drawn(results):
    points, critical = results.points.copy(), results.critical.astype({"low": "Float64", "high": "Float64"})
    points.loc[0, "retention"] = float("nan")
    points[["low", "high"]] = float("nan")
    critical[["low", "high"]] = pd.NA
    drawn = rows(figures.retention(points, critical, 0.99))
    assert sum(row["kind"] == "point" for row in drawn) == len(points) - 1
    assert all(row["low"] is None for row in drawn if row["kind"] == "point")
    for chart in draw(replace(results, points=points, critical=critical)):
        assert "NaN" not in drawing.to_svg(chart)


def test_nothing_to_draw_is_said(results):
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.retention(results.points.assign(retention=float("nan")), results.critical, 0.99)


def test_the_axis_shows_the_crossing_and_says_what_it_cuts_off(results):
    points = results.points.assign(retention=results.points["retention"].where(results.points["sparsity"] < 0.3, 0.05))
    chart = figures.retention(points, results.critical, 0.99)
    low, high = chart.to_dict()["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert 0.7 < low < 0.9 < 1.0 < high < 1.1
    assert (
        chart.to_dict()["layer"][1]["encoding"]["x"]["scale"]["domain"][1] < 0.5
    )  # not the 78% of the last, unseen point
    assert "cut off" in text_of(drawing.to_svg(chart))


def test_hostile_names_are_text():
    hostile = sample(models=(HOSTILE,), tasks=(HOSTILE, "other"), sites=("input", HOSTILE), points=2, layers=2)
    for chart in draw(hostile):
        root = ET.fromstring(drawing.to_svg(chart))  # well-formed, although the name holds what XML cannot
        assert not [element.tag for element in root.iter() if "script" in element.tag]
        assert "<script>alert(1)</script>" in "".join(root.itertext())


def test_choices_of_layers_are_panels_of_their_own(results):
    first = results.critical.assign(layers=None)
    both = pd.concat([first, first.assign(layers=[[0, 1, 2]] * 5)])
    panels = [row["panel"] for row in rows(figures.critical_sparsities(both, 0.99))]
    assert panels == ["layers all"] * 5 + ["layers 0–2"] * 5


def test_save_writes_both_formats(results, tmp_path):
    drawing.save(figures.critical_sparsities(results.critical, 0.99), tmp_path / "deep" / "critical.v1")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["critical.v1.png", "critical.v1.svg"]
    assert (tmp_path / "deep" / "critical.v1.png").read_bytes().startswith(b"\x89PNG")
