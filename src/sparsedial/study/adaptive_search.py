"""Adaptive search for critical sparsity: choose the next value of a rule from the points measured so far.

The search first measures three fixed points, then moves outward until a point loses the score, and then places points
where they narrow the 95% interval. The next point depends only on the points measured so far.

Values are expressed as their distance from the value at which the rule keeps every entry, as `Rule.distance_from_dense`
defines it, so that a larger distance means higher sparsity for every rule. The distance 1 is the sparsest value. Values
are rounded, so that the key of a trial is the same on every machine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from sparsedial.curves.critical import (
    LEFT_CENSORED,
    LOSES,
    RIGHT_CENSORED,
    UNDECIDED,
    CriticalSparsity,
    critical_sparsity,
)
from sparsedial.curves.curve import Curve
from sparsedial.rules import Rule, find_rule_class, make_rule

FIRST_DISTANCES = (0.10, 0.03, 0.20)
"""Distances that every search measures first, so that every curve has at least three points."""

OUTWARD_DISTANCES = (0.35, 0.50, 0.70, 0.90, 1.0)
"""Distances that are measured in this order until the score drops below the threshold."""

INWARD_DISTANCES = (0.01, 0.003)
"""Distances that are measured in this order until the score reaches the threshold."""

MAX_POINTS = 8
"""Number of points after which a search without a requested precision ends. The grid of the paper has 26 points."""

MAX_POINTS_FOR_PRECISION = 16
"""Number of points after which a search with a requested precision ends."""

DISTANCE_TOLERANCE = 1e-9
"""Two distances are equal if they differ by less than this."""

BRACKET_MARGIN = 0.2
"""Minimum distance of a new point from both ends of the bracket, as a share of its width.

It ensures that the bracket shrinks.
"""

OVERSHOOT = 0.9
"""Distance of a new point from the estimated crossing, in units of the precision."""

MIN_BRACKET_SHARE = 0.05
"""A bracket at an end of the interval is bisected while it is wider than this share of the interval."""

MAX_GAP_SHARE = 0.2
"""Gaps behind the highest crossing are halved while they are wider than this share of the interval.

The curve may cross once more there.
"""

PRECISION_REACHED = "the interval is as narrow as requested"
POINTS_USED = "the largest number of points has been measured"
MORE_EXAMPLES_NEEDED = "more examples are needed, because the measured points are not decided"
SPARSEST_VALUE_REACHED = "the sparsest value of the rule does not lose the score"
VALUES_TOO_CLOSE = "the values of the rule are as close to each other as they can be"
NO_CURVE = "no task has scores that can be compared"


@dataclass(frozen=True)
class SearchStep:
    """The next step of a search. Exactly one of the attributes is not None.

    Attributes:
        rule: The rule to measure next.
        end: The reason for which no further rule is measured, such as `MORE_EXAMPLES_NEEDED`.
    """

    rule: Rule | None = None
    end: str | None = None

    @property
    def needs_examples(self) -> bool:
        """True if the interval is wider than requested, and further examples can narrow it."""
        return self.end in (MORE_EXAMPLES_NEEDED, POINTS_USED, SPARSEST_VALUE_REACHED)


def rule_at_distance(rule_name: str, distance: float) -> Rule:
    """Return the rule whose value has this distance from its dense value.

    Args:
        rule_name: Family of the rule, such as "top_p".
        distance: A number in [0, 1].

    Returns:
        The rule, with its value rounded to `Rule.search_digits`, or its `Rule.representative`.

    Example:
        >>> rule_at_distance("top_p", 0.1), rule_at_distance("max_p", 0.1)
        (TopP(p=0.9), MaxP(fraction=0.1))
    """
    rule_class = find_rule_class(rule_name)
    low, high = sorted((rule_class.dense_value, rule_class.sparsest_value))
    value = round(rule_class.value_at(distance), rule_class.search_digits)
    return make_rule(rule_name, min(max(value, low), high)).representative()


def first_rules(rule_name: str) -> tuple[Rule, ...]:
    """Return the rules that every search measures, in order.

    Args:
        rule_name: Family of the rule, such as "top_p".

    Returns:
        One rule for each of `FIRST_DISTANCES`.
    """
    return tuple(rule_at_distance(rule_name, distance) for distance in FIRST_DISTANCES)


def next_step(
    rule_name: str,
    measured: Curve | None,
    retain: float,
    precision: float,
    max_points: int = MAX_POINTS_FOR_PRECISION,
    *,
    can_add_examples: bool = False,
) -> SearchStep:
    """Return the rule to measure next, or the reason for which the search has ended.

    The search measures `FIRST_DISTANCES`, then sparser values until a point loses the score according to its test. Then
    it bisects the wider one of the two brackets that hold the ends of the 95% interval, because no other points can
    narrow it. If the two are the same bracket, or if the scores of the examples are not known, it narrows the bracket
    of the highest crossing instead. Then it halves wide gaps behind the highest crossing (`MAX_GAP_SHARE`), where the
    curve may cross once more.

    Args:
        rule_name: Family of the rule, such as "top_p".
        measured: The curve measured so far, whose ``p`` holds values of the rule. None at the start.
        retain: Share of the dense score to keep, between 0 and 1.
        precision: Half of the desired width of the 95% interval, as a fraction of sparsity.
        max_points: Number of points after which the search ends.
        can_add_examples: True if examples can be added. The search then asks for them as soon as the undecided points
            alone are further apart than the desired width, because other points cannot help. Defaults to False.

    Returns:
        A rule that has not been measured yet, or the reason for the end.

    Example:
        >>> next_step("top_p", None, 0.99, 0.01)
        SearchStep(rule=TopP(p=0.9), end=None)
    """
    for distance in FIRST_DISTANCES:
        rule = _new_rule(rule_name, measured, distance)
        if rule is not None:
            return SearchStep(rule)
    if measured is None:
        return SearchStep(end=VALUES_TOO_CLOSE)
    critical = critical_sparsity(measured, retain)
    if _is_precise(critical, precision):
        return SearchStep(end=PRECISION_REACHED)
    if can_add_examples and (critical.undecided_width or 0.0) > 2 * precision:
        return SearchStep(end=MORE_EXAMPLES_NEEDED)
    if len(measured.p) >= max_points:
        return SearchStep(end=POINTS_USED)
    if critical.verdicts:
        return _step_to_interval_ends(rule_name, measured, critical, precision)
    return _step_to_crossing(rule_name, measured, critical, precision)


def undecided_rules(rule_name: str, measured: Curve, retain: float) -> tuple[Rule, ...]:
    """Return the rules at which further examples can narrow the 95% interval.

    They are the points inside the interval whose tests do not decide whether the model keeps the score.

    Args:
        rule_name: Family of the rule, such as "top_p".
        measured: The curve measured so far, whose ``p`` holds values of the rule.
        retain: Share of the dense score to keep, between 0 and 1.

    Returns:
        The rules, in ascending order of sparsity. Empty if the scores of the examples are not known.
    """
    critical = critical_sparsity(measured, retain)
    rules = []
    for point in critical.verdicts:
        if point.verdict == UNDECIDED and point.p is not None and point.sparsity > (critical.low or 0.0):
            rules.append(make_rule(rule_name, point.p))
    return tuple(rules)


def _new_rule(rule_name: str, measured: Curve | None, distance: float) -> Rule | None:
    """Return the rule at a distance. None if its rounded value is the dense value or has been measured already."""
    rule = rule_at_distance(rule_name, distance)
    is_dense = rule.value == find_rule_class(rule_name).dense_value
    if is_dense or (measured is not None and np.isclose(rule.value, measured.p).any()):
        return None
    return rule


def _distances(rule_name: str, measured: Curve) -> np.ndarray:
    return np.array([find_rule_class(rule_name).distance_from_dense(value) for value in measured.p])


def _is_precise(critical: CriticalSparsity, precision: float) -> bool:
    """Return True if the interval or, without per-example scores, the bracket of the crossing is narrow enough."""
    if critical.low is None or critical.high is None:
        low, high = critical.bracket
        return critical.status != RIGHT_CENSORED and high - low <= 2 * precision
    return not critical.right_censored and critical.high - critical.low <= 2 * precision


def _step_to_interval_ends(rule_name: str, measured: Curve, critical: CriticalSparsity, precision: float) -> SearchStep:
    """Return a step that narrows the 95% interval."""
    if critical.right_censored:
        outward = _sparser_rule(rule_name, measured)
        if outward is not None:
            return SearchStep(outward)
    brackets = _end_brackets(measured, critical)
    if len(set(brackets)) == 1 and critical.undecided_width == 0.0 and brackets[0] == critical.bracket:
        return _step_inside_bracket(rule_name, measured, brackets[0], critical.retain, precision)
    width = (critical.high or 0.0) - (critical.low or 0.0)
    smallest = max(precision, MIN_BRACKET_SHARE * width)
    widest_gap = max(smallest, MAX_GAP_SHARE * width)
    candidates = [(bracket, smallest) for bracket in (*sorted(brackets, key=_width, reverse=True), critical.bracket)]
    candidates += [(gap, widest_gap) for gap in sorted(_gaps_behind_crossing(critical), key=_width, reverse=True)]
    for (low, high), limit in candidates:
        rule = _rule_at_sparsity(rule_name, measured, (low + high) / 2)
        if high - low > limit and rule is not None:
            return SearchStep(rule)
    if critical.right_censored:
        return SearchStep(end=SPARSEST_VALUE_REACHED)
    return SearchStep(end=MORE_EXAMPLES_NEEDED)


def _end_brackets(measured: Curve, critical: CriticalSparsity) -> list[tuple[float, float]]:
    """Return the brackets in which a new point can move an end of the interval."""
    brackets = []
    examples = sum(map(len, measured.examples))
    if critical.low_bracket is not None and (critical.low or examples >= critical.fewest_examples):
        brackets.append(critical.low_bracket)
    if critical.high_bracket is not None:
        brackets.append(critical.high_bracket)
    return brackets


def _gaps_behind_crossing(critical: CriticalSparsity) -> list[tuple[float, float]]:
    """Return the gaps between neighboring points in which the curve may reach the required share once more.

    They lie behind the highest crossing, and one of their points is not shown to lose the score.
    """
    gaps = []
    for point, following in itertools.pairwise(critical.verdicts):
        is_behind = point.sparsity >= critical.bracket[1]
        if is_behind and not point.verdict == following.verdict == LOSES:
            gaps.append((point.sparsity, following.sparsity))
    return gaps


def _width(bracket: tuple[float, float]) -> float:
    return bracket[1] - bracket[0]


def _sparser_rule(rule_name: str, measured: Curve) -> Rule | None:
    """Return the first of `OUTWARD_DISTANCES` beyond the last point, or None."""
    last = _distances(rule_name, measured)[-1]
    for distance in OUTWARD_DISTANCES:
        rule = _new_rule(rule_name, measured, distance)
        if distance > last + DISTANCE_TOLERANCE and rule is not None:
            return rule
    return None


def _step_to_crossing(rule_name: str, measured: Curve, critical: CriticalSparsity, precision: float) -> SearchStep:
    """Return a step that narrows the bracket of the highest crossing."""
    if critical.status == RIGHT_CENSORED:
        outward = _sparser_rule(rule_name, measured)
        if outward is None:
            return SearchStep(end=SPARSEST_VALUE_REACHED)
        return SearchStep(outward)
    if critical.status == LEFT_CENSORED:
        first = _distances(rule_name, measured)[0]
        for distance in INWARD_DISTANCES:
            inward = _new_rule(rule_name, measured, distance)
            if distance < first - DISTANCE_TOLERANCE and inward is not None:
                return SearchStep(inward)
    return _step_inside_bracket(rule_name, measured, critical.bracket, critical.retain, precision)


def _step_inside_bracket(
    rule_name: str, measured: Curve, bracket: tuple[float, float], retain: float, precision: float
) -> SearchStep:
    """Return a step between two neighboring points, of which only the first one keeps the score."""
    low, high = bracket
    # The target lies just beyond the estimated crossing, as seen from the nearer end of the bracket, so that two steps
    # shrink the bracket to about twice the precision if the estimate is good.
    sparsity = np.concatenate([[0.0], measured.sparsity])
    retention = np.concatenate([[1.0], measured.retention])
    first = int(np.flatnonzero(sparsity == low)[-1])
    estimate = interpolate_crossing(sparsity[first : first + 2], retention[first : first + 2], retain)
    direction = 1.0 if estimate - low < high - estimate else -1.0
    target = estimate + direction * precision * OVERSHOOT
    margin = BRACKET_MARGIN * (high - low)
    rule = _rule_at_sparsity(rule_name, measured, min(max(target, low + margin), high - margin))
    if rule is None:
        return SearchStep(end=VALUES_TOO_CLOSE)
    return SearchStep(rule)


def _rule_at_sparsity(rule_name: str, measured: Curve, sparsity: float) -> Rule | None:
    """Return the rule at which a sparsity is expected, or None if it has been measured already.

    The distance of the rule is interpolated between the points. Before the first point, sparsity is assumed to grow
    with the square root of the distance.
    """
    distances = _distances(rule_name, measured)
    if sparsity < measured.sparsity[0]:
        distance = distances[0] * (sparsity / measured.sparsity[0]) ** 2
    else:
        distance = np.interp(sparsity, measured.sparsity, distances)
    return _new_rule(rule_name, measured, float(distance))


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
