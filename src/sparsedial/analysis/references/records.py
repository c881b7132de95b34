"""Records of a reference: its models and its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from sparsedial.curves.critical import RETAIN
from sparsedial.ffn.feed_forward import SITES
from sparsedial.study.dataclass_parsing import STRICT
from sparsedial.suggestions import describe_unknown

CRITICAL_SPARSITY = "critical_sparsity"
OVERLAP_PREVIOUS = "overlap_previous"
QUANTITIES = (CRITICAL_SPARSITY, OVERLAP_PREVIOUS)
"""Quantities that a reference can hold: critical sparsity, and the mean Jaccard index of a diffusion model's kept sets
with those of the previous denoising step."""

TOP_P = "top_p"


@dataclass(frozen=True)
class ReferenceModel:
    """A model of a reference.

    Attributes:
        name: Name of the model in the reference.
        family: Name of its family.
        parameters: Number of parameters. None if it is not known.
        matches: Names of the same model here, without an organization: ``gemma-3-1b-pt``. Case does not matter.
            Empty: only ``name`` itself.
    """

    __pydantic_config__ = STRICT

    name: str
    family: str
    parameters: float | None = None
    matches: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReferenceValue:
    """One number of a reference, with its interval if it has one.

    Attributes:
        model: Name of a model of the reference.
        source: Place of the number, such as "table of LLaDA-8B".
        quantity: One of `QUANTITIES`.
        site: The site. None if the reference does not state it.
        task: Name of the task, or ``average``. None if the reference does not state it.
        averaged_tasks: Names of the tasks that the average covers. Empty for a single task, or if they are not known.
        value: The number, a fraction. None if only a range is known.
        low: Lower end of its interval or range.
        high: Upper end of its interval or range.
        is_exact: True for a number that is printed or exported. False for one that is approximate or was read off a
            figure.
        rule: Name of the rule.
        is_lower_bound: True if nothing was measured beyond the value, so that it is only a lower bound.
        is_high_censored: True if ``high`` is only a lower bound.
    """

    __pydantic_config__ = STRICT

    model: str
    source: str
    quantity: str = CRITICAL_SPARSITY
    site: str | None = None
    task: str | None = None
    averaged_tasks: tuple[str, ...] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None
    is_exact: bool = True
    rule: str = TOP_P
    is_lower_bound: bool = False
    is_high_censored: bool = False

    @property
    def is_open(self) -> bool:
        """True if the range of the quantity has no upper end."""
        return self.is_lower_bound or self.is_high_censored

    @property
    def lowest(self) -> float | None:
        """Lower end of the range in which the reference places the quantity."""
        return self.value if self.low is None else self.low

    @property
    def highest(self) -> float | None:
        """Upper end of the range in which the reference places the quantity. 1 if the range has none."""
        if self.is_open:
            return 1.0
        return self.value if self.high is None else self.high

    def problems(self) -> list[str]:
        """Return what is wrong with the value, one clause per problem."""
        problems = []
        if self.quantity not in QUANTITIES:
            problems.append(describe_unknown("quantity", self.quantity, QUANTITIES))
        if self.site is not None and self.site not in SITES:
            problems.append(describe_unknown("site", self.site, SITES))
        if self.quantity == CRITICAL_SPARSITY and (self.site is None or self.task is None):
            problems.append("a critical sparsity needs a site and a task")
        if self.value is None and (self.low is None or self.high is None):
            problems.append("expected a value, or both low and high")
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not (isfinite(number) and 0.0 <= number <= 1.0):
                problems.append(f"{name}: expected a fraction from 0 to 1, got {number:g}")
        ends = [end for end in (self.low, self.value, self.high) if end is not None]
        if not problems and ends != sorted(ends):
            problems.append(f"expected low ≤ value ≤ high, got {ends}")
        return problems


@dataclass(frozen=True)
class ReferencePoint:
    """One measured point of a curve of a reference.

    Attributes:
        model: Name of the model.
        site: The site.
        task: Name of the task, or of an average.
        rule: Name of the rule.
        sparsity: Sparsity, a fraction.
        retention: Score divided by the dense score.
    """

    model: str
    site: str
    task: str
    rule: str
    sparsity: float
    retention: float


@dataclass(frozen=True)
class Reference:
    """Results of a publication or of another group.

    Attributes:
        name: Short name, for legends and tables.
        description: What the reference is: a citation, or the path of the results.
        retain: Share of the dense score that its critical sparsities keep.
        models: The models.
        values: The numbers.
        points: Points of its curves. Empty if they are not known.
        task_names: Names that a task has here, by its name in the reference, if they differ.
    """

    name: str
    description: str
    retain: float = RETAIN
    models: tuple[ReferenceModel, ...] = ()
    values: tuple[ReferenceValue, ...] = ()
    points: tuple[ReferencePoint, ...] = ()
    task_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def find_model(self, name: str) -> ReferenceModel:
        """Return the model of a value.

        Args:
            name: Name of the model in the reference.
        """
        return next(model for model in self.models if model.name == name)
