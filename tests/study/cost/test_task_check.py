"""The number of examples of the tasks of a study, as the dry run shows it."""

import pytest

from sparsedial.study.cost.task_check import count_examples
from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.spec import TaskSpec


@pytest.mark.parametrize(("limit", "expected"), [(None, 48), (16, 16), (1000, 48)])
def test_max_examples_limits_the_examples_of_a_task(limit, expected):
    tasks = make_tasks([TaskSpec("self_prediction", {"sequences": 48})], {})
    assert count_examples(tasks, limit) == expected
