"""Every rule keeps the same entries on a GPU as on the CPU."""

import pytest
import torch

from sparsedial.rules import RULES, split_family
from tests.support.rules_on_cuda import CASES, DTYPES, VECTORS, compare_devices

MAX_DIFFERING = VECTORS // 50
"""Vectors of all widths and values in which a sum that is added in another order may decide about one entry."""


def test_all_rules_are_compared():
    assert {split_family(family)[0] for family, _ in CASES} == set(RULES.builtin_names)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("family", "vector"), CASES)
def test_a_rule_keeps_the_same_entries_on_both_devices(family, vector, dtype):
    differing, largest = compare_devices(family, vector, dtype)
    assert largest <= 1
    assert differing <= MAX_DIFFERING
