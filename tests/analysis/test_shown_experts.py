"""The experts that a report lists, labels and draws."""

import pandas as pd

from sparsedial.analysis.shown_experts import MAX_LISTED_OUTLIERS, select_experts_to_draw, select_listed_outliers


def make_experts(count, **columns):
    """Return a table of experts of one layer. No two of them look the same in a chart."""
    rows = {
        "model": "m",
        "rule": "top_p",
        "layers": None,
        "task": "piqa",
        "phase": "prefill",
        "site": "input",
        "vector": "input",
        "layer": 0,
        "expert": range(count),
        "sparsity": [0.3 + 0.01 * n for n in range(count)],
        "share": 0.1,
        "robust_z": 0.0,
        "outlier": False,
    }
    return pd.DataFrame(rows | columns)


def test_the_furthest_outliers_are_listed_and_all_are_counted():
    count = MAX_LISTED_OUTLIERS + 5
    experts = make_experts(count + 1, robust_z=[-4.0 - n for n in range(count + 1)], outlier=[True] * count + [False])
    outliers = select_listed_outliers(experts)
    assert (outliers.outlier_count, outliers.expert_count) == (count, count + 1)
    assert sorted(outliers.rows["expert"]) == list(range(5, count))


def test_points_that_look_the_same_are_drawn_once():
    points = select_experts_to_draw(make_experts(4, sparsity=[0.3, 0.3001, 0.4, 0.5], share=[0.1, 0.1, 0.1, 0.2]))
    assert points["expert"].tolist() == [1, 2, 3]


def test_points_of_different_panels_are_kept():
    assert len(select_experts_to_draw(make_experts(2, sparsity=0.3, phase=["prefill", "generation"]))) == 2


def test_experts_without_tokens_are_not_drawn():
    points = select_experts_to_draw(make_experts(4, sparsity=[None, 0.3, 0.4, 0.5], share=[0.0, 0.0, None, 0.1]))
    assert points["expert"].tolist() == [3]
    assert select_experts_to_draw(make_experts(2, share=None)).empty


def test_the_furthest_outliers_of_each_panel_are_labelled_and_never_hidden():
    experts = make_experts(10, sparsity=0.9, robust_z=[4.0 + n for n in range(10)], outlier=True)
    points = select_experts_to_draw(experts)
    labelled = points[points["is_labelled"]]
    assert labelled["expert"].tolist() == [4, 5, 6, 7, 8, 9]
    assert len(points) == 7  # the four others look the same
