"""Masked-token accuracy on the zoo's held-out documents."""

import pytest

from sparsedial.errors import SpecError
from tests.support.diffusion_tasks import make_small_task, prepare_from_disk


def test_the_model_is_better_than_chance(diffusion_lm):
    task = make_small_task("masked_token", length=96, limit=24)
    assert task.score(diffusion_lm, prepare_from_disk(task, diffusion_lm)).mean > 0.2


def test_a_fraction_above_one_is_refused():
    with pytest.raises(SpecError, match=r"fraction 1\.5: expected a number above 0 and at most 1"):
        make_small_task("masked_token", fraction=1.5)
