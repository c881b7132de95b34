"""Addition of examples to the points of a search whose tests do not decide."""

from __future__ import annotations

from collections.abc import Mapping

from sparsedial.curves.curve import Curve
from sparsedial.rules import Rule
from sparsedial.study.adaptive_search import undecided_rules

Points = Mapping[Rule, int]
"""The measured rules of a search, and the number of blocks that were added to the requested examples of each."""


def add_examples(rule_name: str, measured: Curve, points: Points, retain: float, max_extra: int) -> Points:
    """Return the points that are measured with one block of examples more.

    Of the undecided points that have examples left, these are the ones with the fewest blocks. The other points keep
    their examples, because more of them would not narrow the interval.

    Args:
        rule_name: Name of the rule.
        measured: The curve of the points.
        points: The measured points.
        retain: Share of the dense score to keep, between 0 and 1.
        max_extra: Number of blocks that can be added to the requested examples.

    Returns:
        The points to extend, with their new number of added blocks. Empty if there are none.
    """
    extendable = {}
    for rule in undecided_rules(rule_name, measured, retain):
        if points[rule] < max_extra:
            extendable[rule] = points[rule]
    fewest = min(extendable.values(), default=0)
    return {rule: extra + 1 for rule, extra in extendable.items() if extra == fewest}
