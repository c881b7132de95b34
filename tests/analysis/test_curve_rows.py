"""Size trends hold the numbers of the critical sparsities."""

import pytest

from sparsedial.analysis.results import compute_results
from tests.support.made_up_studies import LARGE, MIXTURE, SMALL, Model, study


def test_trends_are_of_a_family_and_hold_the_numbers(tmp_path):
    other = Model("other-2b", 2_000_000_000)
    read = compute_results(study(tmp_path, [SMALL, LARGE, other, MIXTURE], sites=("input",)))
    found = read.trends
    assert set(found["family"]) == {"fam"}
    assert set(found["task"]) == {"arc_easy", "piqa", "average"}
    assert (found["smallest"] == 1e8).all() and (found["largest"] == 1e9).all()
    critical = read.critical.set_index(["model", "task", "site"])["sparsity"]
    for _, row in found.iterrows():
        low, high = (critical[model.name, row["task"], row["site"]] for model in (SMALL, LARGE))
        assert row["slope"] == pytest.approx(high - low)  # ten times the size


@pytest.mark.parametrize(("requested", "precision"), [(None, 0.02), (40, 0.4)])
def test_an_interval_is_wide_if_it_is_wider_than_the_requested_precision(tmp_path, requested, precision):
    values = (0.998, 0.99, 0.98, 0.95, 0.9)
    store = study(tmp_path, [SMALL], ("piqa",), ("input",), values, examples=2000, search=True, precision=requested)
    (row,) = compute_results(store).critical.to_dict("records")
    assert row["precision"] == precision
    assert not row["high_censored"] and 0.04 < row["high"] - row["low"] < 0.8 and row["low"] > 0
    assert row["is_wide"] == (requested is None)
    assert row["answer"] == ("at least" if requested is None else "estimate")


def test_studies_with_other_precisions_keep_their_own(tmp_path):
    stores = [study(tmp_path / "a", [SMALL], ("piqa",)), study(tmp_path / "b", [LARGE], ("piqa",), precision=1.5)]
    critical = compute_results(stores).critical.set_index("model")
    assert critical["precision"].groupby("model").unique().map(list).to_dict() == {
        "fam-100m": [0.02],
        "fam-1b": [0.015],
    }
