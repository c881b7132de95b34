"""The metric that counts."""

from sparsedial.tasks.lm_eval.aggregations import Aggregation
from sparsedial.tasks.lm_eval.metric_choice import MetricDefinition, MetricRequest, choose_metric
from sparsedial.tasks.lm_eval.metrics import IFEVAL_STRICT, Metric


def test_the_papers_choice_for_ifeval():
    levels = ("prompt_level_strict", "prompt_level_loose", "inst_level_strict", "inst_level_loose")
    metrics = {f"{level}_acc": MetricDefinition() for level in levels}
    assert choose_metric("ifeval", metrics, ["none"]) == Metric(IFEVAL_STRICT, "none")


def test_a_perplexity_is_inverted_so_that_higher_is_better():
    metrics = {"word_perplexity": MetricDefinition(Aggregation.PERPLEXITY, higher_is_better=False)}
    metric = choose_metric("text", metrics, ["none"])
    assert metric.label == "inverse_word_perplexity" and metric.higher_is_better


def test_a_metric_of_which_higher_is_better_is_preferred():
    metrics = {"loss": MetricDefinition(higher_is_better=False), "f1": MetricDefinition()}
    assert choose_metric("text", metrics, ["none"]).name == "f1"
    assert choose_metric("text", {"loss": metrics["loss"]}, ["none"]).higher_is_better is False


def test_a_colon_inside_a_name_is_kept():
    assert MetricRequest.parse("rouge:1,first") == MetricRequest("rouge:1", "first")
    assert MetricRequest.parse("rouge:1,first:lower") == MetricRequest("rouge:1", "first", higher_is_better=False)
