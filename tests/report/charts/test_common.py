"""All charts: names are text, and panels say what differs between them."""

import xml.etree.ElementTree as ET

import pytest

from sparsedial.report.charts.common import chart_rows, label_width, name_panels
from sparsedial.report.charts.layer_charts import draw_layer_profile
from sparsedial.report.charts.rendering import to_svg
from sparsedial.report.charts.retention import draw_retention
from sparsedial.report.charts.site_comparison import draw_sites
from tests.support.chart_contents import chart_text
from tests.support.report_sample import sample

HOSTILE = "<script>alert(1)</script>\"'\\' + datum.x \x1b[31m\x00"


def draw_all(results):
    """Draw the three charts that every report has."""
    return [
        draw_sites(results.critical, results.retain),
        draw_retention(results.points, results.critical, results.retain),
        draw_layer_profile(results.layers),
    ]


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
    for chart in draw_all(sample(**size)):
        text = chart_text(chart)
        assert all(name in text for name in size.get("models", ()))
        assert ("task average" in text) == ("tasks" in size)
        assert "undefined" not in text and "NaN" not in text


def test_hostile_names_are_text():
    hostile = sample(models=(HOSTILE,), tasks=(HOSTILE, "other"), sites=("input", HOSTILE), points=2, layers=2)
    for chart in draw_all(hostile):
        root = ET.fromstring(to_svg(chart))  # well-formed, although the name holds characters that XML cannot hold
        assert not [element.tag for element in root.iter() if "script" in element.tag]
        assert "<script>alert(1)</script>" in "".join(root.itertext())


def test_rows_have_inert_names_and_finite_numbers(results):
    critical = results.critical.assign(model="a\x1b", p=float("inf"))
    (row, *_) = chart_rows(critical, ("model",), ("p", "sparsity"))
    assert row == {"model": "a\\x1b", "p": None, "sparsity": 0.18}


def test_panels_are_named_by_the_columns_in_which_rows_differ():
    rows = [{"model": "a", "task": "average", "layers": "all"}, {"model": "a", "task": "piqa", "layers": "0–2"}]
    assert name_panels(rows, by=("model", "task", "layers")) == ["task average · layers all", "piqa · layers 0–2"]
    with pytest.raises(ValueError, match="nothing to draw"):
        name_panels([], by=("model",))


def test_the_room_for_labels_is_limited():
    assert label_width([{"model": "ab"}, {"model": "a"}], "model") == 14
    assert label_width([{"model": "a" * 100}], "model") == 260
