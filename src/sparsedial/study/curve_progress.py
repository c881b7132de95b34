"""Data classes for the curves of a study and their progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsedial.curves.critical import RETAIN
from sparsedial.curves.curve import Curve
from sparsedial.rules import Rule
from sparsedial.study.job import Job


@dataclass(frozen=True)
class CurveKey:
    """Identifier of one curve of a study. All tasks are measured at the same values of the rule.

    Attributes:
        model: Name of the model in the spec.
        site: Where the rule is applied.
        rule_name: Family of the rule, such as "top_p".
    """

    model: str
    site: str
    rule_name: str


@dataclass(frozen=True)
class SearchEnd:
    """The end of the adaptive search of one curve.

    Attributes:
        reason: Why the search has ended, such as `MORE_EXAMPLES_NEEDED`.
        measured: The curve that the search has followed. None if no task has scores that can be compared.
        retain: What the curve has to keep of its dense value.
    """

    reason: str
    measured: Curve | None = None
    retain: float = RETAIN


@dataclass(frozen=True)
class CurveProgress:
    """Known points of one curve, and the jobs that can be run now.

    Attributes:
        points: The rules at the known points of the curve, and the number of blocks that a search has added to the
            requested examples of each.
        pending: Jobs of the curve that can be run now.
        end: The end of its search. None if the search has not ended, or if the values are given.
    """

    points: Mapping[Rule, int]
    pending: list[Job]
    end: SearchEnd | None = None


@dataclass(frozen=True)
class TrialCount:
    """Number of trials of a study.

    Attributes:
        finished: Number of finished trials.
        total: Number of all trials. It is an estimate while models are not loaded or searches are running.
    """

    finished: int
    total: int
