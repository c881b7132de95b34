"""Curves are read from one study or from several."""

import pandas as pd

from sparsedial.analysis.results import compute_results
from tests.support.made_up_studies import SMALL, keep_sparse_trials, study

ONE_TASK = {"tasks": ("piqa",), "sites": ("input",)}


def test_a_curve_may_lie_in_two_studies(tmp_path):
    whole = compute_results(study(tmp_path / "whole", [SMALL], **ONE_TASK))
    parts = [study(tmp_path / name, [SMALL], **ONE_TASK) for name in "ab"]
    keep_sparse_trials(parts[0], lambda record: record.identity.rule.value > 0.93)
    keep_sparse_trials(parts[1], lambda record: record.identity.rule.value < 0.93)
    joined = compute_results(parts)
    pd.testing.assert_frame_equal(joined.points, whole.points)
    assert len(joined.problems) == 4 and all("missing" in problem for problem in joined.problems)
