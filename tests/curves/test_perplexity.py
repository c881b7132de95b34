"""The perplexity criterion: what it compares, its test, and how often its interval contains the truth."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

import sparsedial as sd
from sparsedial.curves import average_at_each_p, average_tasks
from sparsedial.curves.perplexity import critical_sparsity_by_perplexity
from sparsedial.errors import SpecError

SPARSITY = (0.1, 0.2, 0.3, 0.4, 0.5)


def measure(increases, examples, noise, seed=0):
    """Return points whose NLLs are those of the dense model plus an increase and noise."""
    generator = np.random.default_rng(seed)
    dense = generator.gamma(9.0, 0.3, examples)
    points = [(0.0, dense)]
    for sparsity, increase in zip(SPARSITY, increases, strict=True):
        points.append((sparsity, dense + increase + noise * generator.standard_normal(examples)))
    return points


def test_the_estimate_is_where_the_ratio_of_perplexities_crosses():
    limit = math.log(1.01)
    points = measure([0.0, limit / 2, limit, 2 * limit, 0.5], 50, 0.0)
    for _, nll in points[:4]:
        assert math.exp(nll.mean() - points[0][1].mean()) <= 1.01 + 1e-9
    critical = critical_sparsity_by_perplexity(points)
    assert critical.estimate == pytest.approx(0.3, abs=1e-6)
    assert critical_sparsity_by_perplexity(points, increase=math.expm1(2 * limit)).estimate == pytest.approx(0.4)


def test_the_verdicts_are_those_of_a_paired_t_test():
    points = measure([0.0, 0.004, 0.01, 0.016, 0.1], 400, 0.03)
    critical = critical_sparsity_by_perplexity(points)
    for verdict, (_, nll) in zip(critical.verdicts, points[1:], strict=True):
        difference = nll - points[0][1] - math.log(1.01)
        expected = "undecided"
        if ttest_1samp(difference, 0, alternative="less").pvalue < 0.025:
            expected = "keeps"
        elif ttest_1samp(difference, 0, alternative="greater").pvalue < 0.025:
            expected = "loses"
        assert verdict.verdict == expected
    assert {verdict.verdict for verdict in critical.verdicts} >= {"keeps", "loses"}


def test_the_interval_contains_the_truth():
    """The increase is linear, so the truth is between the points at 0.2 and 0.3."""
    increases = [0.004 * step for step in (1, 2, 3, 4, 5)]
    truth = 0.1 * math.log(1.01) / 0.004
    hits = 0
    for seed in range(300):
        critical = critical_sparsity_by_perplexity(measure(increases, 60, 0.02, seed))
        hits += critical.low <= truth and (critical.right_censored or truth <= critical.high)
    assert hits >= 0.95 * 300


def test_the_level_of_the_likelihoods_does_not_matter():
    """A ratio of NLLs would depend on it, and the perplexity criterion does not."""
    points = measure([0.001, 0.004, 0.008, 0.02, 3.0], 80, 0.01)
    shifted = [(sparsity, nll + 5.0) for sparsity, nll in points]
    first, second = critical_sparsity_by_perplexity(points), critical_sparsity_by_perplexity(shifted)
    assert (first.low, first.high) == (second.low, second.high) and first.estimate == pytest.approx(second.estimate)
    ratio = sd.critical_sparsity(shifted, higher_is_better=False)
    assert abs(ratio.estimate - first.estimate) > 0.02


@pytest.mark.parametrize("increase", [0.0, -0.01, 1.0, float("nan"), "0.01"])
def test_a_wrong_increase_is_refused(increase):
    with pytest.raises(SpecError, match="expected a number between 0 and 1"):
        critical_sparsity_by_perplexity(measure([0.0] * 5, 4, 0.0), increase)


@pytest.mark.parametrize("average", [average_tasks, average_at_each_p])
def test_an_average_over_tasks_is_an_error(average):
    points = [(sparsity, nll, 1 - sparsity) for sparsity, nll in measure([0.0, 0.1, 0.2, 0.3, 0.4], 30, 0.01)]
    curve = sd.curve(points, higher_is_better=False)
    assert critical_sparsity_by_perplexity(curve).low is not None
    with pytest.raises(SpecError, match="average over tasks; expected the curve of one task"):
        critical_sparsity_by_perplexity(average([curve, curve]))


def test_log_likelihoods_are_an_error_that_asks_for_negative_ones():
    points = [(sparsity, -nll) for sparsity, nll in measure([0.0, 0.1, 0.2, 0.3, 0.4], 30, 0.01)]
    with pytest.raises(SpecError, match="for example the negative log-likelihood in place of a log-likelihood"):
        critical_sparsity_by_perplexity(points)
