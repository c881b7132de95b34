"""The rows that models are compared by."""

import pandas as pd

from sparsedial.analysis.row_selection import headline_rows, rows_with_numbers


def test_models_are_represented_by_average_and_self_prediction_or_by_their_tasks():
    frame = pd.DataFrame({
        "model": ["a", "a", "a", "b"],
        "task": ["average", "piqa", "self_prediction", "piqa"],
    })  # fmt: skip
    rows = headline_rows(frame)
    assert rows.to_numpy().tolist() == [["a", "average"], ["a", "self_prediction"], ["b", "piqa"]]


def test_tasks_of_a_group_are_represented_by_the_group():
    frame = pd.DataFrame({
        "family": ["x", "x", "x"],
        "task": ["anatomy", "law", "mmlu (2 tasks)"],
        "group": ["mmlu (2 tasks)", "mmlu (2 tasks)", None],
    })  # fmt: skip
    assert headline_rows(frame, "family")["task"].tolist() == ["mmlu (2 tasks)"]
    assert headline_rows(pd.DataFrame()).empty


def test_rows_with_missing_numbers_are_left_out():
    frame = pd.DataFrame({"a": [1, None, 3], "b": [1.0, 2.0, float("inf")]})
    assert rows_with_numbers(frame, "a", "b").index.tolist() == [0]
    assert rows_with_numbers(frame, "a").index.tolist() == [0, 2]
    assert rows_with_numbers(pd.DataFrame(), "a").empty
