"""The average over tasks does not depend on the units of a score."""

import numpy as np
import pytest

from sparsedial.curves import (
    average_at_each_p,
    average_retentions_at_each_p,
    average_tasks,
    critical_sparsity,
    make_curve,
    pair_scores,
    retention_intervals,
)
from sparsedial.errors import SpecError


def make_task(seed, scale=1.0, higher_is_better=True):
    """A task of 80 examples whose score falls (or rises) with sparsity."""
    random = np.random.default_rng(seed)
    dense = (random.random(80) < 0.7).astype(float)
    points = []
    for sparsity, p in ((0.2, 0.9), (0.4, 0.8), (0.6, 0.7)):
        lost = random.random(80) < sparsity / 4
        scores = np.where(lost, 0.0, dense) if higher_is_better else dense + lost
        points.append((sparsity + 0.01 * seed, scale * scores, p))
    return make_curve(points, scale * dense, higher_is_better)


def test_tasks_on_one_scale_have_the_average_of_the_paper():
    tasks = [make_task(0), make_task(1)]
    average = average_tasks(tasks)
    paper = average_at_each_p(tasks)
    np.testing.assert_array_equal(average.retention, paper.retention)
    assert not average.members


@pytest.mark.parametrize("scale", [100.0, 7.0, 5000.0])
def test_the_units_of_one_task_do_not_change_the_average(scale):
    fractions = [make_task(0), make_task(1)]
    mixed = [make_task(0), make_task(1, scale)]
    average = average_tasks(mixed)
    reference = average_retentions_at_each_p(fractions)
    np.testing.assert_allclose(average.retention, reference.retention)
    np.testing.assert_allclose(average.sparsity, reference.sparsity)
    expected = critical_sparsity(reference)
    found = critical_sparsity(average)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    # The average of the paper is dominated by the task with the larger numbers.
    dominated = average_at_each_p(mixed).retention
    assert np.abs(dominated - reference.retention).max() > 0.005


@pytest.mark.parametrize("weights", [[0, 0], [1.0], [1.0, -1.0], [1.0, float("nan")], "ab"])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(SpecError, match="expected 2 numbers of at least 0, one per task"):
        average_at_each_p([make_task(0), make_task(1)], weights)


def test_tasks_of_both_directions_have_an_average_of_retentions_only():
    tasks = [make_task(0), make_task(1, higher_is_better=False)]
    average = average_tasks(tasks)
    np.testing.assert_allclose(average.retention, (tasks[0].retention + tasks[1].retention) / 2)
    with pytest.raises(SpecError, match="average_retentions_at_each_p"):
        average_at_each_p(tasks)


def test_an_average_of_retentions_has_the_variance_of_its_tasks():
    """The average of one task is that task, up to the linearization, and two tasks halve the variance."""
    tasks = [make_task(0), make_task(1, 100.0)]
    alone = retention_intervals(pair_scores(tasks[0]))
    np.testing.assert_allclose(
        retention_intervals(pair_scores(average_retentions_at_each_p(tasks[:1]))), alone, atol=0.02
    )
    standard_errors = []
    for curve in (*map(average_retentions_at_each_p, ([tasks[0]], [tasks[1]])), average_tasks(tasks)):
        scores = pair_scores(curve)
        standard_errors.append(np.sqrt(scores.variance(0.99) - scores.extra_variance))
    np.testing.assert_allclose(standard_errors[2], np.hypot(standard_errors[0], standard_errors[1]) / 2)


def test_points_stay_together_when_they_are_sorted():
    a = make_curve([(0.2, 1.0, 0.9), (0.4, 0.5, 0.8)], dense=1.0)
    b = make_curve([(0.9, 40.0, 0.9), (0.1, 80.0, 0.8)], dense=80.0)
    average = average_tasks([a, b])
    assert average.p.tolist() == [0.8, 0.9]
    np.testing.assert_allclose(average.sparsity, [0.25, 0.55])
    np.testing.assert_allclose(average.retention, [0.75, 0.75])
    assert [member.score.tolist() for member in average.members] == [[0.5, 1.0], [80.0, 40.0]]


@pytest.mark.parametrize("average", [average_tasks, average_retentions_at_each_p])
def test_tasks_at_different_p_or_no_tasks_are_refused(average):
    with pytest.raises(SpecError, match="different p"):
        average([make_task(0), make_curve([(0.1, 50.0, 0.5)], dense=100.0)])
    with pytest.raises(SpecError, match="no curves"):
        average([])


def test_points_without_p_are_an_error_that_says_so():
    curve = make_curve([(0.3, 0.5), (0.5, 0.4)], dense=0.5)
    with pytest.raises(SpecError, match=r"a point has no p; expected \(sparsity, score, p\)"):
        average_tasks([curve, curve])
