"""The built-in rules, kernels and tasks pass the suites that other packages use."""

import pytest

from sparsedial.kernels import cpu_backend
from sparsedial.kernels.dispatch import BUILTIN_RULES
from sparsedial.rules import Rule
from sparsedial.tasks.denoising_replay import DenoisingReplay
from sparsedial.tasks.masked_token import MaskedToken
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.testing import check_kernel, check_rule, check_task


@pytest.mark.parametrize("rule_class", BUILTIN_RULES)
def test_builtin_rules(rule_class: type[Rule]) -> None:
    check_rule(rule_class)


@pytest.mark.parametrize("rule_class", BUILTIN_RULES)
def test_builtin_kernels(rule_class: type[Rule]) -> None:
    tally = check_kernel(cpu_backend.select, rule_class, widths=(1, 130), max_differing_entries=1)
    assert tally.vectors > 100
    assert tally.differing <= 1


@pytest.mark.parametrize(
    "task", [SelfPrediction(sequences=4, length=6), NextToken(limit=4, length=6)], ids=lambda task: task.name
)
def test_builtin_causal_tasks(task, trained):
    check_task(task, trained, examples=4)


@pytest.mark.parametrize(
    "task",
    [
        Restoration(sequences=3, length=6),
        MaskedToken(limit=3, length=6),
        DenoisingReplay(sequences=3, length=6),
        SelfPrediction(sequences=3, length=6),
    ],
    ids=lambda task: task.name,
)
def test_builtin_diffusion_tasks(task, diffusion_lm):
    check_task(task, diffusion_lm, examples=3)
