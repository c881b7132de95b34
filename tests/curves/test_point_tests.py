"""The tests of whether a point keeps or loses the required share of the dense score."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest

from sparsedial.curves import (
    average_at_each_p,
    average_retentions_at_each_p,
    critical_difference,
    critical_sparsity,
    make_curve,
    pair_scores,
)
from sparsedial.curves.paired_scores import TAIL
from sparsedial.curves.point_tests import compute_verdict_statistic, fewest_examples


def change(dense, lost=0, gained=0):
    """Return scores of 0 or 1 of which some are changed."""
    scores = dense.copy()
    scores[np.flatnonzero(dense == 1)[:lost]] = 0.0
    scores[np.flatnonzero(dense == 0)[:gained]] = 1.0
    return scores


def right_answers(mean, examples=64):
    dense = np.zeros(examples)
    dense[: round(mean * examples)] = 1.0
    return dense


def find_verdict(dense, scores):
    (point,) = critical_sparsity(make_curve([(0.3, scores)], dense)).verdicts
    return point.verdict


def verdict_statistic(curve, scores):
    return compute_verdict_statistic(curve, scores, 0.99, fewest_examples(curve, scores, 0.99))


def make_smooth_curve(examples=80):
    random = np.random.default_rng(0)
    dense = random.random(examples)
    points = [(sparsity, dense * (1 - sparsity) + 0.05 * random.random(examples)) for sparsity in (0.01, 0.1, 0.5)]
    return make_curve(points, dense)


@pytest.mark.parametrize("mean", [0.3, 0.5, 1.0])
def test_the_fewest_examples_are_those_that_can_show_anything(mean):
    def unchanged(examples):
        dense = right_answers(mean, examples)
        return make_curve([(0.3, dense)], dense)

    curve = unchanged(1000)
    fewest = fewest_examples(curve, pair_scores(curve), 0.99)
    assert 390 / mean < fewest < 400 / mean
    few, many = (pair_scores(unchanged(count)).statistic(0.99)[0] for count in (fewest - 10, fewest + 10))
    assert few < 1 < many
    assert fewest_examples(curve, pair_scores(curve), 1.0) == 0
    smooth = make_smooth_curve()  # its changes are smaller at lower sparsity, so nothing is known
    assert fewest_examples(smooth, pair_scores(smooth), 0.99) == 0


@pytest.mark.parametrize("mean", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("lost", range(9))
def test_few_answers_lose_what_an_exact_test_says_is_lost(mean, lost):
    dense = right_answers(mean)
    is_lost = lost > 0 and binomtest(0, lost, 0.5).pvalue / 2 < 0.05
    assert find_verdict(dense, change(dense, lost)) == ("loses" if is_lost else "undecided")


@pytest.mark.parametrize(("gained", "verdict"), [(8, "undecided"), (14, "keeps")])
def test_few_answers_keep_a_score_only_if_many_are_gained(gained, verdict):
    dense = right_answers(0.5)
    scores = change(dense, gained=gained)
    assert pair_scores(make_curve([(0.3, scores)], dense)).statistic(0.99) > 1
    assert find_verdict(dense, scores) == verdict


@pytest.mark.parametrize("curve", [
    make_smooth_curve(),
    make_curve([(0.3, change(right_answers(0.5, 2000), 9)), (0.6, right_answers(0.1, 2000))], right_answers(0.5, 2000)),
], ids=["smooth", "many"])  # fmt: skip
def test_other_scores_have_the_same_error_probability_at_both_ends(curve):
    scores = pair_scores(curve)
    np.testing.assert_array_equal(verdict_statistic(curve, scores), scores.statistic(0.99))


@pytest.mark.parametrize("examples", [64, 200])
@pytest.mark.parametrize("changed", [0.05, 0.2, 0.4])
def test_both_errors_together_stay_below_their_probability(examples, changed):
    """A point that has exactly 99% of the dense score is neither kept nor lost, except in at most 5% of cases."""
    random = np.random.default_rng(0)
    draws = 4000
    dense = right_answers(0.6, examples)
    flips = random.random((draws, examples))
    gained = changed / 2
    lost = 0.01 + gained * (1 - dense.mean()) / dense.mean()
    sparse = np.where(flips < np.where(dense == 1, lost, gained), 1 - dense, dense)
    points = [(0.1 + index * 1e-5, scores) for index, scores in enumerate(sparse)]
    curve = make_curve(points, dense)
    statistic = verdict_statistic(curve, pair_scores(curve))

    def limit(probability):
        return probability + 3 * np.sqrt(probability * (1 - probability) / draws)

    assert (statistic > 1).mean() <= limit(TAIL / 10)
    assert (statistic < -1).mean() <= 0.04  # 4.75% in theory, less in fact


def test_a_difference_of_few_answers_is_not_wider_than_that_of_the_intervals():
    dense = right_answers(0.5)
    first = make_curve([(0.2, change(dense, 1)), (0.4, change(dense, 6)), (0.6, change(dense, 20))], dense)
    second = make_curve([(0.2, change(dense, 5)), (0.4, change(dense, 9)), (0.6, change(dense, 25))], dense)
    difference = critical_difference(first, second)
    first_high = critical_sparsity(first).high
    second_high = critical_sparsity(second).high
    assert (first_high, second_high) == (0.4, 0.2)
    assert -second_high <= difference.low and difference.high <= first_high


@pytest.mark.parametrize("average", [average_at_each_p, average_retentions_at_each_p])
def test_few_answers_of_several_tasks_are_added_up(average):
    """The average of two tasks with 300 right answers can show what neither can show alone."""
    dense = right_answers(0.5, 600)
    task = make_curve([(0.3, dense, 0.9)], dense)
    both = average([task, task])
    for curve, is_few in ((task, True), (both, False)):
        scores = pair_scores(curve)
        usual = scores.statistic(0.99)
        assert (verdict_statistic(curve, scores) == usual).all() != is_few


def test_added_examples_divide_the_error_probability_of_few_answers_as_well():
    dense = right_answers(0.5)
    curve = make_curve([(0.2, change(dense, 1)), (0.4, change(dense, 6))], dense)
    scores = pair_scores(curve)
    once, twice = (verdict_statistic(curve, dataclasses.replace(scores, looks=looks)) for looks in (1, 2))
    assert (np.abs(twice) < np.abs(once)).all()
