"""The metric that counts, and one number per example."""

import pytest

from sparsedial.errors import TaskError
from sparsedial.tasks.lm_eval.metrics import IFEVAL_STRICT, Metric, choose_metric, per_example_values


def test_the_papers_choice_for_ifeval():
    levels = ("prompt_level_strict", "prompt_level_loose", "inst_level_strict", "inst_level_loose")
    metrics = {f"{level}_acc": True for level in levels}
    assert choose_metric("ifeval", metrics, ["none"]) == Metric(IFEVAL_STRICT, "none")
    results = [
        {"prompt_level_strict_acc": False, "inst_level_strict_acc": [True, False, True]},
        {"prompt_level_strict_acc": True, "inst_level_strict_acc": [True]},
    ]
    values = per_example_values(Metric(IFEVAL_STRICT, "none"), results, "ifeval")
    assert values.mean() == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_a_result_that_is_not_a_number_is_an_error():
    with pytest.raises(TaskError, match="not a number"):
        per_example_values(Metric("acc", "none"), [{"acc": "yes"}], "odd")
