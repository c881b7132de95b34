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
