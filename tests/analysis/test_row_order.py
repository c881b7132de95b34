"""Rows have one order in the whole report."""

import pandas as pd

from sparsedial.analysis.row_order import sort_rows


def test_averages_come_first_and_sites_have_their_order():
    frame = pd.DataFrame({
        "model": ["b", "b", "a", "b", "b"],
        "task": ["piqa", "average", "piqa", "piqa", "average"],
        "site": ["gate", "up", "up", "input", "input"],
    })  # fmt: skip
    rows = sort_rows(frame)[["model", "task", "site"]].to_numpy().tolist()
    assert rows == [
        ["b", "average", "input"],
        ["b", "average", "up"],
        ["b", "piqa", "input"],
        ["b", "piqa", "gate"],
        ["a", "piqa", "up"],
    ]


def test_layers_become_text_and_sorting_again_keeps_it():
    frame = pd.DataFrame({"task": ["piqa"] * 2, "layers": [[0, 1, 2, 7], None]})
    for rows in (sort_rows(frame), sort_rows(sort_rows(frame))):
        assert rows["layers"].tolist() == ["0–2, 7", "all"]


def test_a_table_without_rows_or_layers_can_be_sorted():
    assert sort_rows(pd.DataFrame()).empty
    assert sort_rows(pd.DataFrame({"task": ["piqa"]}))["layers"].tolist() == ["all"]
