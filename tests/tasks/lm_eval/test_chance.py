"""Scores state the score of random choices."""

import numpy as np
import pytest

from sparsedial.tasks.lm_eval.chance import chance_score
from sparsedial.tasks.lm_eval.metrics import Metric
from tests.support.lm_eval_tasks import DOCUMENTS, load_task


def test_chance_is_that_of_the_options_of_each_example(folder, lm):
    task = load_task(folder, "tiny_choice")
    scores = task.score(lm, task.prepare(lm))
    assert scores.chance == pytest.approx(np.mean([1 / len(document["options"]) for document in DOCUMENTS]))
    few = load_task(folder, "tiny_choice", limit=2)
    assert few.score(lm, few.prepare(lm)).chance == pytest.approx((1 / 4 + 1 / 2) / 2)


@pytest.mark.parametrize("name", ["tiny_last", "tiny_rolling", "tiny_write"])
def test_other_tasks_have_no_chance(folder, name):
    task = load_task(folder, name)
    assert chance_score(task.metric, task.lm_eval_task, DOCUMENTS) is None


def test_chance_is_unknown_for_metrics_that_compare_no_options(folder):
    task = load_task(folder, "tiny_choice").lm_eval_task
    assert chance_score(Metric("exact_match", "none"), task, DOCUMENTS) is None
    assert chance_score(Metric("acc_norm", "none"), task, DOCUMENTS) is not None


def test_several_correct_options_raise_chance(folder, monkeypatch):
    task = load_task(folder, "tiny_choice").lm_eval_task
    monkeypatch.setattr(task, "multiple_target", 2)
    monkeypatch.setattr(task, "doc_to_target", lambda document: [0, 1])
    expected = np.mean([2 / len(document["options"]) for document in DOCUMENTS])
    assert chance_score(Metric("acc", "none"), task, DOCUMENTS) == pytest.approx(expected)
