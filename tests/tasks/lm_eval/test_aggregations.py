"""Recognition of lm-eval's aggregation functions."""

import pytest

from sparsedial.tasks.lm_eval.aggregations import Aggregation, classify_aggregation
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval

EXPECTED = {
    "mean": Aggregation.MEAN,
    "nanmean": Aggregation.MEAN,
    "perplexity": Aggregation.PERPLEXITY,
    "weighted_perplexity": Aggregation.PERPLEXITY,
    "bits_per_byte": Aggregation.PERPLEXITY,
    "median": Aggregation.CORPUS,
    "f1": Aggregation.CORPUS,
    "matthews_corrcoef": Aggregation.CORPUS,
    "brier_score": Aggregation.CORPUS,
    "bypass": Aggregation.CORPUS,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_aggregations_of_lm_eval(name):
    with silence_lm_eval():
        from lm_eval.api.registry import get_aggregation

        aggregate = get_aggregation(name)
    assert classify_aggregation(aggregate) is EXPECTED[name]


def test_a_mean_over_instructions():
    def aggregate(items):
        flat = [item for sublist in items for item in sublist]
        return sum(flat) / len(flat)

    assert classify_aggregation(aggregate) is Aggregation.ITEM_MEAN


def test_a_missing_aggregation():
    assert classify_aggregation(None) is Aggregation.CORPUS
