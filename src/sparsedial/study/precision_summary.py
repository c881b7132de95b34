"""What each search of a study with a requested precision has reached, and what would narrow its interval further."""

from __future__ import annotations

from collections.abc import Iterator

from sparsedial.curves.critical import CriticalSparsity, critical_sparsity
from sparsedial.study.adaptive_search import MORE_EXAMPLES_NEEDED, POINTS_USED
from sparsedial.study.curve_progress import CurveKey, SearchEnd
from sparsedial.study.planner import Planner


def describe_precision(planner: Planner) -> Iterator[str]:
    """Describe the intervals of all searches that have ended.

    Args:
        planner: Planner of a study.

    Yields:
        str: One line per curve. None if the study requests no precision.
    """
    precision = planner.spec.precision
    if precision is None:
        return
    for model in planner.models:
        if model not in planner.resolved_models:
            continue
        for curve in planner.curves(model):
            end = planner.curve_progress(curve).end
            if end is not None:
                yield _describe_curve(curve, end, precision)


def _describe_curve(curve: CurveKey, end: SearchEnd, precision: float) -> str:
    name = f"{curve.model}, {curve.site} {curve.rule_name}"
    if end.measured is None:
        return f"{name}: no critical sparsity: {end.reason}"
    critical = critical_sparsity(end.measured, end.retain)
    if critical.low is None:
        return f"{name}: no interval: at least two examples of each task are needed; raise --sequences or --limit"
    examples = sum(map(len, end.measured.examples))
    missing = [end.reason]
    if end.reason in (MORE_EXAMPLES_NEEDED, POINTS_USED):
        missing += _describe_missing_examples(critical, examples, precision)
    if end.reason == POINTS_USED and critical.needs_points(precision / 100):
        missing.append("more values of p would narrow it as well")
    used = f"{len(end.measured.p)} values of p and up to {examples:,} examples"
    return f"{name}: {_describe_interval(critical)} with {used}: {'; '.join(missing)}"


def _describe_interval(critical: CriticalSparsity) -> str:
    if critical.low is None or critical.high is None:
        return "no interval"
    if critical.right_censored:
        return f"95% interval from {critical.low:.1%}, without an upper end"
    half_width = (critical.high - critical.low) / 2
    return f"95% interval {critical.low:.1%} to {critical.high:.1%} (±{100 * half_width:.2g} percentage points)"


def _describe_missing_examples(critical: CriticalSparsity, examples: int, precision: float) -> list[str]:
    """Return how many examples an interval of ±``precision`` percentage points needs. Empty if it is not known."""
    needed = critical.examples_needed(examples, precision / 100)
    if needed is None or needed <= examples:
        return []
    bound = "at least" if critical.right_censored else "about"
    return [f"{bound} {needed:,} examples would be needed; raise --max-examples or --sequences and --limit"]
