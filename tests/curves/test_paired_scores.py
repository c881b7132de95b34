"""The paired t-test of retention."""

import numpy as np
import pytest

from sparsedial.curves import average_at_each_p, critical_sparsity, make_curve, pair_scores, retention_intervals

T_63 = 1.998341  # 97.5% quantile of the t distribution with 63 degrees of freedom


def flip(dense, *indices):
    """Return scores of 0 or 1 of which some are changed."""
    scores = dense.copy()
    scores[list(indices)] = 1 - scores[list(indices)]
    return scores


def random_curve(seed, examples=80, scale=1.0):
    random = np.random.default_rng(seed)
    dense = random.random(examples)
    points = []
    for sparsity in (0.1, 0.3, 0.5):
        points.append((sparsity, scale * np.abs(dense * (1 - sparsity / 10) + 0.05 * random.normal(size=examples))))
    return make_curve(points, scale * dense)


def test_margin_and_variance_by_hand():
    dense = np.repeat([1.0, 0.0], 32)
    scores = pair_scores(make_curve([(0.5, flip(dense, 0, 1, 2, 3, 40))], dense))
    differences = flip(dense, 0, 1, 2, 3, 40) - 0.99 * dense
    assert scores.margin(0.99) == pytest.approx([differences.mean()])
    assert scores.variance(0.99) == pytest.approx([differences.var(ddof=1) / 64 + 4 / 64**2])
    assert scores.degrees == pytest.approx([63])
    assert scores.quantile == pytest.approx([T_63], abs=1e-5)


def test_unchanged_scores_prove_nothing_with_few_examples():
    """The bootstrap has no variance here, and would be certain."""
    verdicts = []
    for examples in (64, 2000):
        dense = np.repeat([1.0, 0.0], examples // 2)
        critical = critical_sparsity(make_curve([(0.3, dense), (0.6, dense)], dense))
        verdicts.append([point.verdict for point in critical.verdicts])
    assert verdicts == [["undecided"] * 2, ["keeps"] * 2]


@pytest.mark.parametrize("scale", [100.0, 1e-6])
def test_the_unit_of_the_score_does_not_matter(scale):
    expected = pair_scores(random_curve(0))
    scores = pair_scores(random_curve(0, scale=scale))
    np.testing.assert_allclose(scores.statistic(0.99), expected.statistic(0.99))
    np.testing.assert_allclose(retention_intervals(scores), retention_intervals(expected))


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_retention_holds_what_the_test_does_not_reject(seed):
    scores = pair_scores(random_curve(seed))
    low, high = retention_intervals(scores)
    for index in range(3):
        for end, sign in ((low[index], 1), (high[index], -1)):
            assert scores.statistic(end)[index] == pytest.approx(sign)
            assert abs(scores.statistic(end + sign * 1e-4)[index]) < 1
            assert abs(scores.statistic(end - sign * 1e-4)[index]) > 1


def test_the_size_of_a_change_comes_from_a_point_where_enough_examples_changed():
    dense = np.repeat([1.0, 0.5], 50)
    slightly = dense - 0.1 * (np.arange(100) == 0)
    clearly = dense - 0.4 * (np.arange(100) < 20)
    scores = pair_scores(make_curve([(0.1, dense), (0.2, slightly), (0.3, clearly)], dense))
    assert scores.extra_variance == pytest.approx(np.full(3, 4 * 0.4**2 / 100**2))


def test_additional_changes_are_those_of_the_average_and_not_of_every_task():
    dense = np.repeat([1.0, 0.0], 50)
    task = make_curve([(0.3, flip(dense, 0, 60), 0.9)], dense)
    average = pair_scores(average_at_each_p([task] * 4))
    assert average.extra_variance == pytest.approx([4 * (1 / 4 / 100) ** 2])
    assert average.degrees == pytest.approx([4 * 99])


def test_without_two_examples_there_is_no_test():
    assert pair_scores(make_curve([(0.3, 0.5)], dense=0.5)) is None
    single = make_curve([(0.3, [0.5], 0.9)], dense=[0.5])
    several = make_curve([(0.3, [0.5, 0.4], 0.9)], dense=[0.5, 0.5])
    assert pair_scores(average_at_each_p([single, several])) is None


def test_a_dense_score_that_may_be_0_has_no_interval_of_retention():
    dense = np.zeros(50)
    dense[0] = 1.0
    low, high = retention_intervals(pair_scores(make_curve([(0.3, dense)], dense)))
    assert np.isnan(low).all() and np.isnan(high).all()
