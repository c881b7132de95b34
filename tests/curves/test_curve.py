"""Making curves from points, and averaging them over tasks."""

import numpy as np
import pytest

import sparsedial as sd
from sparsedial.curves import average_at_each_p, make_curve
from sparsedial.errors import SpecError


def test_the_dense_point_may_be_among_the_points():
    curve = make_curve([(0.4, 0.49), (0.0, 0.5), (0.2, 0.5)])
    assert curve.dense == 0.5
    assert curve.sparsity.tolist() == [0.2, 0.4]
    assert curve.retention.tolist() == [1.0, 0.98]


def test_scores_of_examples_are_kept_and_averaged():
    curve = make_curve([(0.5, [1.0, 0.0, 0.0, 0.0], 0.9)], dense=[1.0, 1.0, 0.0, 0.0])
    assert (curve.dense, curve.score.tolist(), curve.p.tolist()) == (0.5, [0.25], [0.9])
    assert [matrix.tolist() for matrix in curve.examples] == [[[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]


@pytest.mark.parametrize(
    ("points", "dense", "message"),
    [
        ([], 1.0, "no points"),
        ([(0.5, 1.0)], None, "no dense score"),
        ([(1.5, 1.0)], 1.0, r"expected a sparsity in \[0, 1\]"),
        ([(0.5, float("nan"))], 1.0, "NaN"),
        ([(0.5, 1.0)], 0.0, "above 0"),
        ([(0.5, [1.0, 0.0])], [1.0], "same examples"),
        ([0.5], 1.0, "expected .sparsity, score."),
        (0.5, 1.0, r"expected a list of \(sparsity, score\) or a Curve"),
        ("0.5", 1.0, r"expected a list of \(sparsity, score\) or a Curve"),
    ],
)
def test_bad_points_are_refused(points, dense, message):
    with pytest.raises(SpecError, match=message):
        sd.critical_sparsity(points, dense=dense)


@pytest.mark.parametrize("retain", [1.5, 0.0, "0.99", None])
def test_a_wrong_share_is_refused(retain):
    with pytest.raises(SpecError, match=r"retain=.*expected a number in \(0, 1\]"):
        sd.critical_sparsity([(0.5, 1.0)], retain=retain, dense=1.0)


def test_task_average_is_that_of_the_paper():
    random = np.random.default_rng(0)
    tasks = []
    for sparsities in [(0.1, 0.3, 0.5), (0.2, 0.3, 0.7)]:
        points = [(s, random.random(50), p) for s, p in zip(sparsities, (0.9, 0.8, 0.7), strict=True)]
        tasks.append(make_curve(points, random.random(50)))
    mean = average_at_each_p(tasks)
    np.testing.assert_allclose(mean.sparsity, [0.15, 0.3, 0.6])
    np.testing.assert_allclose(mean.score, (tasks[0].score + tasks[1].score) / 2)
    assert mean.dense == pytest.approx((tasks[0].dense + tasks[1].dense) / 2)
    assert [matrix.shape for matrix in mean.examples] == [(50, 4), (50, 4)]
    np.testing.assert_array_equal(mean.examples[1], tasks[1].examples[0] / 2)
    with pytest.raises(SpecError, match="different p"):
        average_at_each_p([tasks[0], make_curve([(0.1, 0.5, 0.5)], dense=1.0)])


def test_task_average_accepts_points_in_any_order():
    a = make_curve([(0.2, 1.0, 0.9), (0.4, 0.5, 0.8)], dense=1.0)
    b = make_curve([(0.3, 0.7, 0.9), (0.29, 0.9, 0.8)], dense=1.0)  # the lower p resulted in the lower sparsity
    mean = average_at_each_p([a, b])
    np.testing.assert_allclose(mean.p, [0.9, 0.8])
    np.testing.assert_allclose(mean.sparsity, [0.25, 0.345])
    np.testing.assert_allclose(mean.score, [0.85, 0.7])


def test_task_average_can_be_weighted():
    a = make_curve([(0.2, 1.0, 0.9)], dense=1.0)
    b = make_curve([(0.4, 0.6, 0.9)], dense=0.6)
    mean = average_at_each_p([a, b], weights=[3, 1])
    np.testing.assert_allclose([mean.sparsity[0], mean.score[0], mean.dense], [0.25, 0.9, 0.9])


def test_no_curves_have_no_average():
    with pytest.raises(SpecError, match="no curves"):
        average_at_each_p([])


def test_p_may_be_unknown():
    assert np.isnan(make_curve([(0.3, 0.5, None)], dense=0.5).p).all()


@pytest.mark.parametrize("dense", ["much", np.ones((2, 2)), [[1.0], [1.0, 2.0]]], ids=["text", "matrix", "ragged"])
def test_a_dense_score_is_a_number_or_a_list(dense):
    with pytest.raises(SpecError, match="expected the dense score, or a list of one dense score per example"):
        make_curve([(0.3, [0.5, 0.6])], dense=dense)


def test_a_point_has_at_most_three_values():
    with pytest.raises(SpecError, match=r"expected \(sparsity, score\) or \(sparsity, score, p\)"):
        make_curve([(0.3, 0.5, 0.9, "label")], dense=0.5)


def test_points_without_scores_are_an_error():
    with pytest.raises(SpecError, match="the points have no scores"):
        make_curve([(0.3, [])], dense=[])
