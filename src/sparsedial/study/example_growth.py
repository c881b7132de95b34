"""A search that adds points and, where the tests of its points do not decide, examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsedial.curves.curve import Curve
from sparsedial.rules import Rule
from sparsedial.study.adaptive_search import SearchStep, next_step, undecided_rules

Points = Mapping[Rule, int]
"""The measured rules of a search, and the number of blocks that were added to the requested examples of each."""


@dataclass(frozen=True)
class GrowingSearch:
    """A search for a critical sparsity with a requested precision.

    Attributes:
        rule_name: Family of the rule, such as "top_p".
        retain: Share of the dense score to keep, between 0 and 1.
        precision: Half of the desired width of the 95% interval, as a fraction of sparsity.
        max_extra: Number of blocks that can be added to the requested examples.
    """

    rule_name: str
    retain: float
    precision: float
    max_extra: int

    def next_points(self, measured: Curve | None, points: Points) -> Points | SearchStep:
        """Return the points to measure next, or the end of the search.

        A new point has as many blocks as the points with the most blocks.

        Args:
            measured: The curve of the points. None at the start.
            points: The measured points.

        Returns:
            New or extended points, or a step with the reason of the end.
        """
        added = {} if measured is None else self._add_examples(measured, points)
        step = next_step(self.rule_name, measured, self.retain, self.precision, can_add_examples=bool(added))
        if step.rule is not None:
            return {step.rule: max(points.values(), default=0)}
        if added and step.needs_examples:
            return added
        return step

    def _add_examples(self, measured: Curve, points: Points) -> Points:
        """Return the undecided points that have the fewest blocks, with one block more. Empty if none is left.

        The other points keep their examples, because more of them would not narrow the interval.
        """
        extendable = {}
        for rule in undecided_rules(self.rule_name, measured, self.retain):
            if points[rule] < self.max_extra:
                extendable[rule] = points[rule]
        fewest = min(extendable.values(), default=0)
        return {rule: extra + 1 for rule, extra in extendable.items() if extra == fewest}
