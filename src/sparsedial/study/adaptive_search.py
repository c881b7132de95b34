"""Adaptive search for critical sparsity: choose the next value of a rule from the points measured so far.

The search first measures three fixed points, then moves outward or inward until the score crosses the threshold, and
then narrows the bracket around the crossing. The next point depends only on the points measured so far.

Values are expressed as their distance from the value at which the rule keeps every entry, so that a larger distance
means higher sparsity for every rule.
"""

from __future__ import annotations

import numpy as np

from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.curve import Curve
from sparsedial.rules import RULES, Rule, make_rule

FIRST_DISTANCES = (0.10, 0.03, 0.20)
"""Distances that every search measures first, so that every curve has at least three points."""

OUTWARD_DISTANCES = (0.35, 0.50, 0.70, 0.90, 1.0)
"""Distances that are measured in this order until the score drops below the threshold."""

INWARD_DISTANCES = (0.01, 0.003)
"""Distances that are measured in this order until the score reaches the threshold."""

MAX_POINTS = 8
"""Number of points after which a search ends. The grid of the paper has 26 points."""

VALUE_DIGITS = 4
"""Decimal digits of a value. Values are rounded, so that the key of a trial is the same on every machine."""

DISTANCE_TOLERANCE = 1e-9
"""Two distances are equal if they differ by less than this."""

BRACKET_MARGIN = 0.2
"""Minimum distance of a new point from both ends of the bracket, as a share of its width.

It ensures that the bracket shrinks.
"""

OVERSHOOT = 0.9
"""Distance of a new point from the estimated crossing, in units of the tolerance."""


def rule_at_distance(rule_name: str, distance: float) -> Rule:
    """Return the rule whose value has this distance from its dense value.

    Args:
        rule_name: A name from `RULES`.
        distance: A number in [0, 1].

    Returns:
        The rule, with its value rounded to `VALUE_DIGITS`.

    Example:
        >>> rule_at_distance("top_p", 0.1), rule_at_distance("max_p", 0.1)
        (TopP(p=0.9), MaxP(fraction=0.1))
    """
    dense_value = RULES[rule_name].dense_value
    value = dense_value - distance if dense_value == 1.0 else dense_value + distance
    return make_rule(rule_name, round(value, VALUE_DIGITS))


def first_rules(rule_name: str) -> tuple[Rule, ...]:
    """Return the rules that every search measures, in order.

    Args:
        rule_name: A name from `RULES`.

    Returns:
        One rule for each of `FIRST_DISTANCES`.
    """
    return tuple(rule_at_distance(rule_name, distance) for distance in FIRST_DISTANCES)


def next_rule(rule_name: str, measured: Curve | None, retain: float, tolerance: float) -> Rule | None:
    """Return the rule to measure next, or None if the search has ended.

    The search ends if the bracket around the highest crossing is no wider than twice the tolerance or no wider than the
    95% interval, if the sparsest value of the rule keeps the score, or after `MAX_POINTS` points.

    Args:
        rule_name: A name from `RULES`.
        measured: The curve measured so far, whose ``p`` holds values of the rule. None at the start.
        retain: Share of the dense score to keep, between 0 and 1.
        tolerance: Precision of critical sparsity, as a fraction of sparsity.

    Returns:
        A rule that has not been measured yet, or None.

    Example:
        >>> next_rule("top_p", None, 0.99, 0.01)
        TopP(p=0.9)
    """
    if measured is None:
        return rule_at_distance(rule_name, FIRST_DISTANCES[0])
    distances = _distances(rule_name, measured)
    for distance in FIRST_DISTANCES:
        if not np.isclose(distances, distance).any():
            return rule_at_distance(rule_name, distance)
    if len(distances) >= MAX_POINTS:
        return None
    keeps = measured.retention >= retain
    if keeps[-1]:
        outward = [d for d in OUTWARD_DISTANCES if d > distances[-1] + DISTANCE_TOLERANCE]
        return rule_at_distance(rule_name, outward[0]) if outward else None
    if not keeps.any():
        inward = [d for d in INWARD_DISTANCES if d < distances[0] - DISTANCE_TOLERANCE]
        if inward:
            return rule_at_distance(rule_name, inward[0])
    return _rule_inside_bracket(rule_name, measured, retain, tolerance)


def _distances(rule_name: str, measured: Curve) -> np.ndarray:
    return np.abs(measured.p - RULES[rule_name].dense_value)


def _rule_inside_bracket(rule_name: str, measured: Curve, retain: float, tolerance: float) -> Rule | None:
    """Return a rule between the last point that keeps the score and the next point.

    Returns None if the bracket of these two points is narrow enough.
    """
    sparsity = np.concatenate([[0.0], measured.sparsity])
    retention = np.concatenate([[1.0], measured.retention])
    distances = np.concatenate([[0.0], _distances(rule_name, measured)])
    last_kept = int(np.flatnonzero(retention >= retain)[-1])
    low = sparsity[last_kept]
    high = sparsity[last_kept + 1]
    width = high - low
    if width <= max(2 * tolerance, _interval_width(measured, retain)):
        return None

    # The target lies just beyond the estimated crossing, as seen from the nearer end of the bracket, so that two steps
    # shrink the bracket to about twice the tolerance if the estimate is good.
    bracket = slice(last_kept, last_kept + 2)
    estimate = interpolate_crossing(sparsity[bracket], retention[bracket], retain)
    direction = 1.0 if estimate - low < high - estimate else -1.0
    target = estimate + direction * tolerance * OVERSHOOT
    target = min(max(target, low + BRACKET_MARGIN * width), high - BRACKET_MARGIN * width)

    share = (target - low) / width
    distance = distances[last_kept] + share * (distances[last_kept + 1] - distances[last_kept])
    rule = rule_at_distance(rule_name, float(distance))
    if np.isclose(rule.value, measured.p).any():
        return None
    return rule


def _interval_width(measured: Curve, retain: float) -> float:
    """Return the width of the 95% interval of critical sparsity. 0 if there is none."""
    critical = critical_sparsity(measured, retain)
    if critical.low is None or critical.high is None:
        return 0.0
    return critical.high - critical.low


def interpolate_crossing(sparsity: np.ndarray, retention: np.ndarray, retain: float) -> float:
    """Estimate where retention crosses a threshold between two points.

    The lost share of the score is assumed to grow as a power of sparsity. If the first point lost nothing, linear
    interpolation is used instead.

    Args:
        sparsity: Sparsity of the two points, shape [2].
        retention: Retention of the two points, shape [2]. The threshold lies between them.
        retain: The threshold.

    Returns:
        The estimated sparsity at the crossing.

    Example:
        >>> sparsity = np.array([0.2, 0.4])
        >>> round(interpolate_crossing(sparsity, 1 - sparsity**4, 0.99), 4)
        0.3162
    """
    lost = 1.0 - retention
    if lost[0] <= 0.0 or sparsity[0] <= 0.0:
        share = (retention[0] - retain) / (retention[0] - retention[1])
        return float(sparsity[0] + share * (sparsity[1] - sparsity[0]))
    return float(np.exp(np.interp(np.log(1.0 - retain), np.log(lost), np.log(sparsity))))
