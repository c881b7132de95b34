"""The likelihoods of lm-eval's perplexity tasks: their perplexity is the one that lm-eval computes."""

import math

import pytest

from sparsedial.tasks.base import NLL, NLL_TOKENS
from sparsedial.tasks.lm_eval.likelihoods import likelihood_columns
from tests.support.lm_eval_tasks import load_tasks


@pytest.mark.parametrize(("name", "metric"), [("tiny_last", "perplexity"), ("tiny_rolling", "byte_perplexity")])
def test_the_perplexity_is_that_of_lm_eval(folder, lm, name, metric):
    [task] = load_tasks([name], folder)
    assert task.gives_likelihoods
    scores = task.score(lm, task.prepare(lm))
    perplexity = math.exp(scores.columns[NLL].sum() / scores.columns[NLL_TOKENS].sum())
    assert perplexity == pytest.approx(scores.details[metric], rel=1e-6)


def test_a_task_without_a_perplexity_has_no_likelihoods(folder, lm):
    [task] = load_tasks(["tiny_choice"], folder)
    assert not task.gives_likelihoods
    assert task.score(lm, task.prepare(lm)).columns == {}


def test_an_example_without_a_number_leaves_out_the_columns():
    assert likelihood_columns("perplexity", [{"perplexity": -1.0}, {}]) == {}
