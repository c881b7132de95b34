"""The trend of critical sparsity over the size of a family's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsedial.curves.bootstrap import RESAMPLES, resample_retention
from sparsedial.curves.critical import CONFIDENCE_QUANTILES, RETAIN, TAIL
from sparsedial.curves.crossings import Crossings, find_crossings
from sparsedial.curves.curve import Curve
from sparsedial.errors import SpecError

MIN_SLOPE = 0.0005  # slopes between -MIN_SLOPE and MIN_SLOPE are displayed as 0.0 percentage points
MORE = "more"
LESS = "less"
UNCLEAR = "unclear"


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

        The verdict is ``unclear`` if the interval is not known or reaches within `MIN_SLOPE` of 0.
        """
        if self.low is None or self.high is None:
            return UNCLEAR
        if self.low > MIN_SLOPE:
            return MORE
        if self.high < -MIN_SLOPE:
            return LESS
        return UNCLEAR


def fit_size_trend(
    parameters: Sequence[float],
    curves: Sequence[Curve],
    retain: float = RETAIN,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SizeTrend:
    """Fit critical sparsity against log10 of the number of parameters.

    The fit is least squares with equal weights. Its interval comes from resampling the examples of all models
    together. Models with the same number of examples draw the same examples in each resample, so models that are scored
    on the same examples are paired.

    Args:
        parameters: Number of parameters of each model.
        curves: The curve of each model.
        retain: Share of the dense score to keep, in (0, 1].
        resamples: Number of bootstrap resamples.
        seed: Random seed of the bootstrap.

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
    crossings = [find_crossings(curve.sparsity, curve.retention[None], retain) for curve in curves]
    values = np.array([crossing.highest[0] for crossing in crossings])
    is_censored = np.array([crossing.is_right_censored[0] for crossing in crossings])
    centred = np.log10(sizes) - np.log10(sizes).mean()
    low = None
    high = None
    if all(curve.examples for curve in curves):
        resampled = _resample_crossings(curves, retain, resamples, seed)
        slopes = np.stack([crossing.highest for crossing in resampled], 1) @ centred / (centred @ centred)
        low, high = map(float, np.quantile(slopes, CONFIDENCE_QUANTILES))
        is_censored |= [crossing.is_right_censored.mean() > TAIL for crossing in resampled]
    means = [values[sizes == size].mean() for size in np.unique(sizes)]
    return SizeTrend(
        slope=float(values @ centred / (centred @ centred)),
        low=low,
        high=high,
        rising=int((np.diff(means) > 0).sum()),
        steps=len(means) - 1,
        censored=int(is_censored.sum()),
    )


def _check_sizes(sizes: np.ndarray, curve_count: int) -> None:
    is_valid = np.isfinite(sizes) & (sizes > 0)
    if len(sizes) != curve_count or not is_valid.all() or len(np.unique(sizes)) < 2:
        raise SpecError(
            f"fit_size_trend: {curve_count} curves and the sizes {sizes.tolist()}; "
            "expected one positive size for each curve, and at least two different sizes"
        )


def _resample_crossings(curves: Sequence[Curve], retain: float, resamples: int, seed: int) -> list[Crossings]:
    """Return the crossings of each curve, in those resamples in which the retention of every curve is defined."""
    retentions = [resample_retention(curve, resamples, seed, drop_undefined=False) for curve in curves]
    is_defined = np.all([np.isfinite(retention).all(1) for retention in retentions], 0)
    return [
        find_crossings(curve.sparsity, retention[is_defined], retain)
        for curve, retention in zip(curves, retentions, strict=True)
    ]
