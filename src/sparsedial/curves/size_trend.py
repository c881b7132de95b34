"""The trend of critical sparsity over the size of a family's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsedial.curves.critical import RETAIN, RIGHT_CENSORED, CriticalSparsity, critical_sparsity
from sparsedial.curves.curve import Curve
from sparsedial.curves.difference import critical_difference, judge_sign
from sparsedial.errors import SpecError


@dataclass(frozen=True)
class SizeTrend:
    """Change of critical sparsity over the size of a family's models.

    Attributes:
        slope: Change of critical sparsity for ten times the parameters.
        low: Lower end of the slope's 95% interval over examples, or None without per-example scores. The
            interval does not include the scatter of the models about the line.
        high: Upper end of this interval, or None without per-example scores.
        rising: Number of steps from one size to the next larger one at which critical sparsity rises.
        steps: Number of steps from one size to the next larger one.
        censored: Number of models whose critical sparsity, or the upper end of its interval, is a lower bound.
    """

    slope: float
    low: float | None
    high: float | None
    rising: int
    steps: int
    censored: int = 0

    @property
    def verdict(self) -> str:
        """``more`` or ``less`` if larger models tolerate more or less sparsity, else ``unclear``.

        The verdict is ``unclear`` if the interval is not known or reaches within 0.05 percentage points of 0.
        """
        return judge_sign(self.low, self.high)


def fit_size_trend(
    parameters: Sequence[float], curves: Sequence[Curve], retain: float = RETAIN, same_examples: bool = False
) -> SizeTrend:
    """Fit critical sparsity against log10 of the number of parameters.

    The fit is least squares with equal weights.

    The interval of two models is that of their difference (`critical_difference`). The interval of more models combines
    the distances from the estimates to the ends of their intervals, each times the weight of its model. Distances that
    are due to the choice of examples are combined as the root of the sum of squares (Zou and Donner 2008, Statistics in
    Medicine 27, "method of variance estimates recovery"), as if the models were independent. Models that are scored on
    the same examples usually err in the same direction, so their interval is wider than necessary. Distances that are
    not measured are added, because all models may be off by this much at once. These are the part beyond the last point
    of an interval without an upper end, which counts up to 1, and the points around the crossing of a model without an
    estimate. Such a model is represented by the middle of these points.

    Args:
        parameters: Number of parameters of each model.
        curves: The curve of each model.
        retain: Share of the dense score to keep, in (0, 1].
        same_examples: True if all models are scored on the same examples in the same order. Used for two models.
            Defaults to False.

    Returns:
        The trend. It has no interval if the scores of the examples are not known for every curve.

    Raises:
        SpecError: There are fewer than two sizes, a size is not positive, or the numbers of sizes and curves differ.

    Example:
        >>> from sparsedial.curves import make_curve
        >>> small = make_curve([(0.2, 1.0), (0.4, 0.98)], dense=1.0)
        >>> large = make_curve([(0.4, 1.0), (0.6, 0.98)], dense=1.0)
        >>> trend = fit_size_trend([1e8, 1e9], [small, large])
        >>> round(trend.slope, 3), trend.low, trend.rising, trend.steps
        (0.2, None, 1, 1)
    """
    sizes = np.asarray(parameters, dtype=np.float64)
    _check_sizes(sizes, len(curves))
    criticals = [critical_sparsity(curve, retain) for curve in curves]
    values = np.array([critical.center for critical in criticals])
    centered = np.log10(sizes) - np.log10(sizes).mean()
    weights = centered / (centered @ centered)
    slope = float(weights @ values)
    if len(curves) == 2:
        low, high = _two_model_interval(weights, curves, retain, same_examples)
    else:
        low, high = _slope_interval(weights, values, criticals)
    means = [values[sizes == size].mean() for size in np.unique(sizes)]
    return SizeTrend(
        slope=slope,
        low=low,
        high=high,
        rising=int((np.diff(means) > 0).sum()),
        steps=len(means) - 1,
        censored=sum(critical.right_censored or critical.status == RIGHT_CENSORED for critical in criticals),
    )


def _two_model_interval(
    weights: np.ndarray, curves: Sequence[Curve], retain: float, same_examples: bool
) -> tuple[float | None, float | None]:
    """Return the ends of the slope's interval of two models. None if a curve has no per-example scores."""
    smaller, larger = np.argsort(weights)
    difference = critical_difference(curves[larger], curves[smaller], retain, same_examples)
    if difference.low is None or difference.high is None:
        return None, None
    slope_per_difference = float(weights[larger])
    return slope_per_difference * difference.low, slope_per_difference * difference.high


def _slope_interval(
    weights: np.ndarray, values: np.ndarray, criticals: Sequence[CriticalSparsity]
) -> tuple[float | None, float | None]:
    """Return the ends of the slope's interval. None if a critical sparsity has no interval.

    Args:
        weights: Weight of each model's critical sparsity in the slope, shape [models].
        values: Critical sparsity of each model, shape [models].
        criticals: The critical sparsities with their intervals.
    """
    down = []
    up = []
    for value, critical in zip(values, criticals, strict=True):
        if critical.low is None or critical.high is None:
            return None, None
        unmeasured = 0.0
        open_part = 0.0
        if critical.estimate is None:
            unmeasured = value - critical.bracket[0]
        if critical.right_censored:
            open_part = 1.0 - critical.high
        down.append((value - critical.low - unmeasured, unmeasured))
        up.append((critical.high - value - unmeasured, unmeasured + open_part))
    rises = weights[:, None] > 0
    to_low = np.abs(weights)[:, None] * np.where(rises, down, up)
    to_high = np.abs(weights)[:, None] * np.where(rises, up, down)
    slope = float(weights @ values)
    return slope - _combine_distances(to_low), slope + _combine_distances(to_high)


def _combine_distances(parts: np.ndarray) -> float:
    """Return the distance of an end of the slope's interval.

    Args:
        parts: The part of each model's distance that is due to the examples, and the rest, shape [models, 2].
    """
    return float(np.linalg.norm(parts[:, 0]) + parts[:, 1].sum())


def _check_sizes(sizes: np.ndarray, curve_count: int) -> None:
    is_valid = np.isfinite(sizes) & (sizes > 0)
    if len(sizes) != curve_count or not is_valid.all() or len(np.unique(sizes)) < 2:
        raise SpecError(
            f"fit_size_trend: {curve_count} curves and the sizes {sizes.tolist()}; "
            "expected one positive size for each curve, and at least two different sizes"
        )
