"""All charts: names are text, and panels say what differs between them."""

import pytest

from sparsedial.report.charts.common import chart_rows, name_panels


def test_rows_have_inert_names_and_finite_numbers(results):
    critical = results.critical.assign(model="a\x1b", p=float("inf"))
    (row, *_) = chart_rows(critical, ("model",), ("p", "sparsity"))
    assert row == {"model": "a\\x1b", "p": None, "sparsity": 0.18}


def test_panels_are_named_by_the_columns_in_which_rows_differ():
    rows = [{"model": "a", "task": "average", "layers": "all"}, {"model": "a", "task": "piqa", "layers": "0–2"}]
    assert name_panels(rows, by=("model", "task", "layers")) == ["task average · layers all", "piqa · layers 0–2"]
    with pytest.raises(ValueError, match="nothing to draw"):
        name_panels([], by=("model",))
