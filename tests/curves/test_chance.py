"""Dense scores are compared with chance."""

import numpy as np
import pytest

from sparsedial.curves import is_at_chance


def right_answers(right, examples):
    return np.repeat([1.0, 0.0], [right, examples - right])


@pytest.mark.parametrize(
    ("right", "examples", "chance", "expected"),
    [
        (150, 600, 0.25, True),  # exactly at chance
        (100, 600, 0.25, True),  # below it
        (160, 600, 0.25, True),  # above it by less than its uncertainty
        (200, 600, 0.25, False),
        (600, 600, 0.25, False),
        (300, 600, 0.5, True),
        (345, 600, 0.5, False),
        (0, 100, 0.0, True),
        (2, 100, 0.0, True),  # generated answers of which hardly any is right
        (8, 100, 0.0, False),
        (1, 1, 0.25, False),  # one example has no interval
        (0, 1, 0.0, True),
    ],
)
def test_by_hand(right, examples, chance, expected):
    assert is_at_chance([right_answers(right, examples)], chance) == expected


def test_random_choices_are_recognised_about_as_often_as_the_interval_claims():
    random = np.random.default_rng(0)
    recognised = 0
    for _ in range(100):
        recognised += is_at_chance([(random.random(300) < 0.25).astype(float)], 0.25, resamples=300)
    assert recognised >= 92


def test_tasks_are_compared_together():
    """Two weighted tasks that are each uncertain are above chance together."""
    tasks = [right_answers(22, 60) / 2, right_answers(22, 60) / 2]
    assert is_at_chance([right_answers(20, 60)], 0.25)
    assert not is_at_chance(tasks, 0.25)
