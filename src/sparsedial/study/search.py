"""Which dial value to measure next: bracket the crossing, then close in on it. A pure function of what is known."""

from __future__ import annotations

from functools import partial

import numpy as np

from sparsedial.critical import Curve, critical_sparsity
from sparsedial.rules import RULES

# How far to turn the dial from its dense end. Always these three, so that every curve has a shape; then outwards
# until the score is lost, or inwards until it is kept; then between.
FIRST = (0.10, 0.03, 0.20)
OUTWARDS = (0.35, 0.50, 0.70, 0.90, 1.0)
INWARDS = (0.01, 0.003)
MOST_POINTS = 8  # a third of the 26 of the paper's grid
DIGITS = 4  # dial values are rounded, so that a trial's key is the same on every machine


def dial_value(rule: str, turned: float) -> float:
    """The rule's dial turned that far from its dense end, rounded.

    >>> dial_value("top_p", 0.1), dial_value("max_p", 0.1)
    (0.9, 0.1)
    """
    dense = RULES[rule].dense
    return round(dense - turned if dense == 1.0 else dense + turned, DIGITS)


def next_value(rule: str, measured: Curve | None, retain: float, tolerance: float) -> float | None:
    """The dial value to measure next, or None when critical sparsity is known well enough.

    Well enough: the bracket around the highest crossing is no wider than twice ``tolerance``, or than the
    95% interval, whichever is wider; or the dial is at its end.

    Args:
        rule: its name.
        measured: the points so far (their ``p`` are dial values), or None at the start.
        retain: share of the dense score to keep. tolerance: a fraction of sparsity.

    >>> next_value("top_p", None, 0.99, 0.01)
    0.9
    """
    value = partial(dial_value, rule)
    turned = np.array([]) if measured is None else np.abs(measured.p - RULES[rule].dense)
    for first in FIRST:
        if not np.isclose(turned, first).any():
            return value(first)
    if measured is None or len(turned) >= MOST_POINTS:
        return None
    keeps = measured.retention >= retain
    if keeps[-1]:
        further = [t for t in OUTWARDS if t > turned[-1] + 1e-9]
        return value(further[0]) if further else None
    if not keeps.any():
        closer = [t for t in INWARDS if t < turned[0] - 1e-9]
        if closer:
            return value(closer[0])
    found = critical_sparsity(measured, retain)
    s = np.concatenate([[0.0], measured.sparsity])
    t = np.concatenate([[0.0], turned])
    last = int(np.flatnonzero(keeps)[-1]) + 1 if keeps.any() else 0
    low, high = s[last], s[last + 1]
    interval = 0.0 if found.low is None or found.high is None else found.high - found.low
    if high - low <= max(2 * tolerance, interval):
        return None
    # Just past the likely crossing as seen from the nearer end: if the guess is good, the bracket falls to about twice
    # the tolerance in two steps. And well inside the bracket, so that it shrinks whichever side is replaced.
    likely = _crossing(s[last : last + 2], np.concatenate([[1.0], measured.retention])[last : last + 2], retain)
    aim = likely + (tolerance if likely - low < high - likely else -tolerance) * 0.9
    aim = min(max(aim, low + 0.2 * (high - low)), high - 0.2 * (high - low))
    wanted = value(float(t[last] + (aim - low) / (high - low) * (t[last + 1] - t[last])))
    return None if np.isclose(wanted, measured.p).any() else wanted


def _crossing(s: np.ndarray, r: np.ndarray, retain: float) -> float:
    """Where retention crosses ``retain`` between two points: what is lost grows like a power of sparsity.

    >>> round(_crossing(np.array([0.2, 0.4]), 1 - np.array([0.2, 0.4]) ** 4, 0.99), 4)
    0.3162
    """
    lost = 1.0 - r
    if lost[0] <= 0.0 or s[0] <= 0.0:  # nothing is lost yet: a power through the origin says too little
        return float(s[0] + (r[0] - retain) / (r[0] - r[1]) * (s[1] - s[0]))
    return float(np.exp(np.interp(np.log(1.0 - retain), np.log(lost), np.log(s))))
