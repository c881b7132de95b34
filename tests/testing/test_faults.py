"""Each suite finds a rule, a kernel or a task with one fault, and says what is wrong."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from sparsedial.inference.run_context import ignore_progress
from sparsedial.kernels import reference
from sparsedial.rules import Rule, TopK
from sparsedial.tasks.batch_option import copy_with
from sparsedial.tasks.example_blocks import ExampleBlock
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.testing import check_kernel, check_rule, check_task
from tests.support.custom_rules import AboveMean, CalibratedThreshold, ColumnTopK, Threshold, WeightedTopK
from tests.support.custom_tasks import SumOfLogits

FAST = {"widths": (7, 40), "dtypes": (torch.float32,)}


@dataclass(frozen=True)
class Good(Rule):
    """Keep the entries whose magnitude is at least a share of the largest one."""

    share: float
    name: ClassVar[str] = "good"
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 1.0

    def keep_mask(self, magnitudes):
        return (magnitudes >= self.share * magnitudes.amax(-1, keepdim=True)) & (magnitudes > 0)


def test_rules_without_a_fault_pass():
    check_rule(Good, **FAST)
    check_rule(AboveMean, **FAST)
    check_rule(CalibratedThreshold, bind=lambda rule, width: Threshold(rule.share), **FAST)
    weights = torch.rand(40, dtype=torch.float64) + 0.5
    check_rule(ColumnTopK, bind=lambda rule, width: WeightedTopK(weights[:width], rule.share), **FAST)


@dataclass(frozen=True)
class TokensCompete(Good):
    def keep_mask(self, magnitudes):
        return (magnitudes >= self.share * magnitudes.amax()) & (magnitudes > 0)


@dataclass(frozen=True)
class DependsOnPosition(Good):
    def keep_mask(self, magnitudes):
        first = torch.arange(len(magnitudes))[:, None] == 0
        return super().keep_mask(magnitudes) | ((magnitudes > 0) & first)


@dataclass(frozen=True)
class Random(Good):
    def keep_mask(self, magnitudes):
        return (torch.rand_like(magnitudes) >= self.share) & (magnitudes > 0)


@dataclass(frozen=True)
class WrongDirection(Good):
    def keep_mask(self, magnitudes):
        if self.share == 0.0:
            return magnitudes > 0
        return (magnitudes >= (1 - self.share) * magnitudes.amax(-1, keepdim=True)) & (magnitudes > 0)


@dataclass(frozen=True)
class DropsOneEntry(Good):
    def keep_mask(self, magnitudes):
        mask = super().keep_mask(magnitudes)
        mask[:, -1] = False
        return mask


@dataclass(frozen=True)
class Squares(Good):
    def keep_mask(self, magnitudes):
        squares = magnitudes.square()
        return (squares >= self.share * squares.amax(-1, keepdim=True)) & (squares > 0)


@dataclass(frozen=True)
class ChangesMagnitudes(Good):
    def keep_mask(self, magnitudes):
        mask = super().keep_mask(magnitudes)
        magnitudes.mul_(2)
        return mask


@dataclass(frozen=True)
class DeclaresTies(Good):
    keeps_lowest_index_first: ClassVar[bool] = True

    def keep_mask(self, magnitudes):
        if self.share == 0.0:
            return magnitudes > 0
        count = int((1 - self.share) * magnitudes.shape[-1])
        order = magnitudes.flip(-1).argsort(dim=-1, descending=True, stable=True)
        return torch.zeros_like(magnitudes, dtype=torch.bool).scatter(-1, order[:, :count], True).flip(-1)


@dataclass(frozen=True)
class IntegerMask(Good):
    def keep_mask(self, magnitudes):
        return super().keep_mask(magnitudes).int()


@dataclass(frozen=True)
class AnyValue(Good):
    def __post_init__(self):
        pass


@dataclass(frozen=True)
class DistancesDoNotFit(Good):
    @classmethod
    def value_at(cls, distance):
        return distance**2


@dataclass(frozen=True)
class ChangesInJson(Good):
    def to_json(self):
        return {**super().to_json(), "value": round(self.value, 1) + 0.01}


class NoDataclass(Rule):
    name = "no_dataclass"


@pytest.mark.parametrize(
    ("rule_class", "message"),
    [
        (TokensCompete, "a vector alone keeps other entries than among others"),
        (DependsOnPosition, "keeps other entries"),
        (Random, "a second call keeps other entries"),
        (WrongDirection, "than at a value closer to the dense value"),
        (DropsOneEntry, "the dense value drops an entry"),
        (ChangesMagnitudes, "keep_mask changes its argument"),
        (DeclaresTies, "the lowest index was not kept first"),
        (IntegerMask, "expected a boolean tensor"),
        (AnyValue, "no SpecError for the value"),
        (DistancesDoNotFit, r"value_at\(distance_from_dense\(value\)\) is"),
        (ChangesInJson, "to_json has the value"),
        (NoDataclass, r"expected @dataclass\(frozen=True\)"),
    ],
)
def test_the_fault_of_a_rule_is_found(rule_class, message):
    with pytest.raises((AssertionError, ValueError), match=message):
        check_rule(rule_class, **FAST)


def test_the_remedy_for_squares_that_underflow_is_named():
    with pytest.raises(AssertionError, match="divide each vector by its maximum first"):
        check_rule(Squares, widths=(7,), dtypes=(torch.float64,))


def keep_one_more(x, rule):
    y, kept = reference.select(x, replace(rule, fraction=min(1.0, rule.fraction + 0.1)))
    return y, kept


def scale(x, rule):
    y, kept = reference.select(x, rule)
    return y * 1.0001, kept


def forget_nonfinite(x, rule):
    return reference.select(x.nan_to_num(0.0, 0.0, 0.0), rule)


def write_to_input(x, rule):
    y, kept = reference.select(x, rule)
    if x.numel() and x.is_contiguous():
        x.copy_(y)
    return y, kept


def count_wrongly(x, rule):
    y, kept = reference.select(x, rule)
    return y, kept.long()


def ignore_strides(x, rule):
    y, kept = reference.select(x, rule)
    return y.mT.contiguous().mT if y.dim() > 1 else y, kept


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (keep_one_more, "entries differ from the definition"),
        (scale, "a kept entry was changed|not as"),
        (forget_nonfinite, "expected -1"),
        (write_to_input, "the input was changed"),
        (count_wrongly, "the counts are torch.int64"),
        (ignore_strides, "not contiguous"),
    ],
)
def test_the_fault_of_a_kernel_is_found(kernel, message):
    with pytest.raises(AssertionError, match=message):
        check_kernel(kernel, TopK, **FAST)


def test_a_kernel_of_a_bound_rule():
    def rules(width):
        return [WeightedTopK(torch.rand(width, dtype=torch.float64), share) for share in (0.0, 0.5, 1.0)]

    tally = check_kernel(reference.select, rules, **FAST)
    assert tally.vectors > 50 and tally.differing == 0


def test_a_task_without_a_fault_passes(trained):
    check_task(SumOfLogits(), trained, examples=3)


class Names(SumOfLogits):
    def identity(self):
        return {"task": "another", "version": 1}


class NoVersion(SumOfLogits):
    def identity(self):
        return {"task": self.name}


class Address(SumOfLogits):
    def identity(self):
        return {"task": self.name, "version": 1, "object": repr(object())}


class NotJson(SumOfLogits):
    def identity(self):
        return {"task": self.name, "version": 1, "rows": np.int64(3)}


class GlobalRandomNumbers(SumOfLogits):
    def prepare(self, lm, progress=None):
        return {"tokens": torch.randint(3, 90, (self.rows, 6)).tolist()}


class NumbersAsKeys(SumOfLogits):
    def prepare(self, lm, progress=None):
        return {**super().prepare(lm), "rows": {1: 2}}


class ChangesExamples(SumOfLogits):
    def score(self, lm, examples, sparsifier=None, progress=None):
        scores = super().score(lm, examples, sparsifier)
        examples["seen"] = True
        return scores


class OneScore(SumOfLogits):
    def score(self, lm, examples, sparsifier=None, progress=None):
        scores = super().score(lm, examples, sparsifier)
        return replace(scores, values=scores.values[:1])


class NotFinite(SumOfLogits):
    def score(self, lm, examples, sparsifier=None, progress=None):
        scores = super().score(lm, examples, sparsifier)
        return replace(scores, values=scores.values * np.nan)


class KnowsTheSparsifier(SumOfLogits):
    def score(self, lm, examples, sparsifier=None, progress=None):
        scores = super().score(lm, examples, sparsifier)
        return replace(scores, values=scores.values + (sparsifier is not None))


@dataclass(frozen=True)
class Batched(SumOfLogits):
    """Task whose batches influence each other."""

    batch: int = field(default=3)

    def batch_rows(self, lm):
        return self.batch

    def with_batch(self, rows):
        return replace(self, batch=rows)

    def score(self, lm, examples, sparsifier=None, progress=None):
        scores = super().score(lm, examples, sparsifier)
        return replace(scores, values=scores.values + self.batch)


class CountsExamples(SelfPrediction):
    """Task whose settings contain the number of its examples, so that its blocks cannot be pooled."""

    def identity(self):
        return {**super().identity(), "count": len(self.example_block)}


class ForgetsTheBlock(SelfPrediction):
    """Task whose blocks all begin with the first example."""

    def prepare(self, lm, progress=ignore_progress):
        first = copy_with(self, block=ExampleBlock(0, len(self.example_block)))
        return SelfPrediction.prepare(first, lm, progress)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (CountsExamples(sequences=4, length=6), "have other settings"),
        (ForgetsTheBlock(sequences=4, length=6), "scores of blocks differ from those of the whole"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_fault_of_a_divisible_task_is_found(task, message, trained):
    with pytest.raises(AssertionError, match=message):
        check_task(task, trained, examples=4)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Names(), "identity has task 'another'"),
        (NoVersion(), "identity has no version"),
        (Address(), "memory address"),
        (NotJson(), "expected plain JSON"),
        (GlobalRandomNumbers(), "a second call of prepare returns other examples"),
        (NumbersAsKeys(), "keys that are not text"),
        (ChangesExamples(), "score changes the examples"),
        (OneScore(), "1 scores, expected 3"),
        (NotFinite(), "expected at least one, and finite numbers"),
        (KnowsTheSparsifier(), "at p = 1, the scores are not those of the dense model"),
        (Batched(), "with batch 1, scores differ by"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_fault_of_a_task_is_found(task: Any, message, trained):
    with pytest.raises(AssertionError, match=message):
        check_task(task, trained, examples=3)
