"""A figure is a file of its own: well-formed, with its heading, its legend and its panels."""

import xml.etree.ElementTree as ET

import pytest

from sparsedial.report.charts.rendering import to_png
from sparsedial.report.figures.catalog import make_comparison_figures, make_model_figures
from sparsedial.report.figures.profile_data import read_profiles
from sparsedial.report.plots.standalone_svg import make_standalone_svg
from tests.support.report_sample import sample

HOSTILE = "<script>alert(1)</script>\"'\\' + datum.x \x1b[31m\x00"


def draw_all(results):
    """Return the text of every figure as a file."""
    figures = list(make_comparison_figures(results))
    for model in make_model_figures(results, read_profiles(results)):
        figures += model.figures
    return {figure.name: make_standalone_svg(figure) for figure in figures}


@pytest.mark.parametrize(
    "size",
    [
        {"points": 1, "layers": 1, "sites": ("intermediate",)},
        {"models": ("a", "b"), "points": 2, "layers": 2},
        {"tasks": ("arc_easy", "piqa", "lambada", "average"), "sites": ("input",), "points": 2, "layers": 2},
    ],
    ids=["one of each", "two models", "tasks"],
)
def test_small_and_large_results_are_drawn(size):
    for svg in draw_all(sample(**size)).values():
        text = "".join(ET.fromstring(svg).itertext())
        assert "var(" not in svg and "nan" not in svg.lower()
        assert len(text) > 50


def test_hostile_names_are_text():
    hostile = sample(models=(HOSTILE,), tasks=(HOSTILE, "other"), sites=("input", HOSTILE), points=2, layers=2)
    for svg in draw_all(hostile).values():
        root = ET.fromstring(svg)  # well-formed, although the name holds characters that XML cannot hold
        assert not [element.tag for element in root.iter() if "script" in element.tag]
        assert "<script>alert(1)" in "".join(root.itertext())


def test_the_file_has_the_legend_and_can_be_drawn_as_png(results):
    svg = draw_all(results)["retention"]
    text = "".join(ET.fromstring(svg).itertext())
    assert all(site in text for site in ("input", "up", "gate", "intermediate", "all_inputs"))
    assert to_png(svg).startswith(b"\x89PNG")
