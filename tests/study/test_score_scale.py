"""Dense scores that no sparse score can be compared with are refused, with the reason and what to do."""

from dataclasses import replace

import numpy as np
import pytest

from sparsedial.curves import critical_sparsity
from sparsedial.errors import TaskError
from sparsedial.study.curve_from_trials import measured_curve
from sparsedial.study.pooled_trials import pool_trials
from sparsedial.study.score_scale import find_direction, find_score_problem, has_score_at_chance
from tests.support.trial_records import make_record


def record_of(score=0.5, **fields):
    record = make_record(score=score)
    return replace(record, result=replace(record.result, **fields))


@pytest.mark.parametrize("metric", ["loss", "error_rate", "perplexity", "quality", "acc_error"])
def test_a_direction_that_is_not_stated_is_never_assumed(metric):
    record = record_of(metric=metric)
    assert find_direction(record) is None
    problem = find_score_problem(record, np.full(3, 0.5))
    assert repr(metric) in problem and "higher_is_better" in problem and "--out" in problem


@pytest.mark.parametrize("metric", ["acc", "exact_match,strict-match", "agreement", "inverse_byte_perplexity"])
def test_older_records_of_known_metrics_have_a_direction(metric):
    record = record_of(metric=metric)
    assert find_direction(record) is True
    assert find_score_problem(record, np.full(3, 0.5)) is None


def test_a_stated_direction_comes_before_the_name():
    assert find_direction(record_of(metric="acc", higher_is_better=False)) is False
    assert find_direction(record_of(metric="quality", higher_is_better=True)) is True


@pytest.mark.parametrize(
    ("scores", "direction", "message"),
    [
        ([0.0, 0.0], True, "nothing to retain"),
        ([0.0, 0.0], False, "no ratio of scores is defined"),
        ([-4.0, -2.0], True, r"exp\(log-likelihood\)"),
        ([-1.0, 3.0], True, "expected scores of at least 0"),
        ([-1.0, 3.0], False, "expected scores of at least 0"),
    ],
)
def test_scores_without_a_ratio_are_refused(scores, direction, message):
    class Source:
        def samples(self, record):
            return np.array(scores)

    record = record_of(score=float(np.mean(scores)), metric="made_up", higher_is_better=direction)
    with pytest.raises(TaskError, match=message):
        measured_curve(Source(), pool_trials([record]), [pool_trials([record])])


@pytest.mark.parametrize(("direction", "retention"), [(True, 1.25), (False, 0.8)])
def test_the_curve_has_the_direction_of_the_record(direction, retention):
    dense = record_of(metric="made_up", higher_is_better=direction)
    sparse = replace(dense, result=replace(dense.result, score=5.0))

    class Source:
        def samples(self, record):
            return np.array([5.0, 5.0]) if record is sparse else np.array([4.0, 4.0])

    curve = measured_curve(Source(), pool_trials([dense]), [pool_trials([sparse])])
    np.testing.assert_allclose(curve.retention, [retention])
    assert critical_sparsity(curve).status == ("right-censored" if direction else "left-censored")


def test_instructions_weight_examples_on_the_unit_scale():
    dense = record_of(metric="inst_level_strict_acc")

    class Source:
        def samples(self, record):
            return np.array([1.5, 0.0, 0.5])

    assert measured_curve(Source(), pool_trials([dense]), [pool_trials([dense])]).is_unit_scale
    percentage = pool_trials([record_of(metric="quality", higher_is_better=True)])
    assert not measured_curve(Source(), percentage, [percentage]).is_unit_scale


def test_chance_is_read_from_the_record():
    scores = np.repeat([1.0, 0.0], [75, 225])
    assert has_score_at_chance(record_of(score=0.25, chance=0.25), scores)
    assert not has_score_at_chance(record_of(score=0.25), scores)
    assert has_score_at_chance(record_of(score=0.0), 0 * scores)
    assert not has_score_at_chance(record_of(score=0.25, metric="loss", higher_is_better=False, chance=0.5), scores)
