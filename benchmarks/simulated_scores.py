"""Simulated per-example scores of models whose retention curve is known, for `bench_coverage`.

Every example has a tolerance of its own: scores of 0 or 1 flip at the sparsity at which the example's tolerance is
used up, and smooth scores drift away from their expected value in proportion to it. So the scores of one example at
neighboring sparsities are correlated, as those of a real model are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr, ndtri

Retention = Callable[[np.ndarray], np.ndarray]

BINARY = "0/1"
SMOOTH = "smooth"

CHURN = 0.1
"""Share of the wrong answers that become right at sparsity 1. As many others become wrong."""

LOWEST_RETENTION = 0.3
"""Lowest retention of smooth scores, so that their mean stays above 0 at every sparsity."""

DRIFT = (0.01, 0.05)
"""Standard deviation of the change of a smooth score at sparsity 0, and how much it grows until sparsity 1.

The agreement of a model of the zoo with itself changes by this much from text to text.
"""

PERSISTENCE = {BINARY: 0.9, SMOOTH: 0.6}
"""Correlation of an example's tolerance between two sparsities. That of smooth scores is the zoo's as well."""

COLLAPSE = 0.85
"""All simulated models lose their score towards this sparsity."""

SMALLEST_SPARSITY = 1e-12
"""A measured point has a sparsity above 0."""

DENSE_MEANS = (0.3, 0.5, 0.7, 0.9)
"""Mean dense scores; repetitions and tasks use them in turns."""


def power(critical: float, exponent: float) -> Retention:
    """Return a curve that loses 1% near the sparsity ``critical``, grows as a power of sparsity and then collapses."""

    def retention(sparsity: np.ndarray) -> np.ndarray:
        return 1 - 0.01 * (sparsity / critical) ** exponent - (sparsity / COLLAPSE) ** 12

    return retention


def _bend(sparsity: np.ndarray) -> np.ndarray:
    return np.where(sparsity < 0.31, 1 - 0.005 * sparsity, 1 - 0.00155 - 0.8 * (sparsity - 0.31))


def _dip(sparsity: np.ndarray) -> np.ndarray:
    dip = 0.03 * np.exp(-(((sparsity - 0.15) / 0.05) ** 2))
    return 1 - dip - 0.01 * (sparsity / 0.42) ** 6 - (sparsity / COLLAPSE) ** 12


def _late_knee(sparsity: np.ndarray) -> np.ndarray:
    return 1 - 0.004 * sparsity - 3 * np.maximum(0, sparsity - 0.61)


SHAPES: dict[str, Retention] = {
    "early": power(0.15, 2.2),
    "steep": power(0.21, 3.3),
    "middle": power(0.3, 4),
    "late": power(0.43, 6),
    "shallow": power(0.3, 1.7),
    "bend between points": _bend,
    "dip that recovers": _dip,
    "late knee": _late_knee,
}


def top_p_sparsity(p: float) -> float:
    """Return the sparsity of top-p for a long vector of normally distributed entries.

    Entries below t in magnitude, a share ``2 Phi(t) - 1`` of all, hold the share ``1 - exp(-t**2 / 2)`` of the L1 norm.

    Args:
        p: Share of the L1 norm that is kept, in [0, 1].
    """
    if p <= 0.0:
        return 1.0
    return float(max(2 * ndtr(math.sqrt(-2 * math.log(p))) - 1, SMALLEST_SPARSITY))


def top_p_value(sparsity: float) -> float:
    """Return the p at which `top_p_sparsity` is a given sparsity in [0, 1)."""
    return math.exp(-(float(ndtri((1 + sparsity) / 2)) ** 2) / 2)


def true_critical_sparsity(shape: Retention, retain: float = 0.99) -> float:
    """Return the highest sparsity at which a curve is at least ``retain``."""
    sparsity = np.linspace(0, 1, 20001)
    return float(sparsity[np.flatnonzero(shape(sparsity) >= retain)[-1]])


@dataclass
class SimulatedTask:
    """One set of examples, scored by a model with a known curve at any sparsity.

    Attributes:
        shape: The retention curve of the model.
        kind: ``0/1`` or ``smooth``.
        dense: Dense scores, shape [N].
        tolerance: The part of each example's tolerance that is the same at all sparsities, standard normal, shape [N].
        random: Generator of the rest.
        mean: Expected dense score.
        scores: Scores that have been drawn, by sparsity.
    """

    shape: Retention
    kind: str
    dense: np.ndarray
    tolerance: np.ndarray
    random: np.random.Generator
    mean: float
    scores: dict[float, np.ndarray] = field(default_factory=dict)

    def score(self, sparsity: float) -> np.ndarray:
        """Return the scores at a sparsity, shape [N]. They are the same whenever they are asked for."""
        if sparsity not in self.scores:
            persistence = PERSISTENCE[self.kind]
            noise = self.random.normal(size=len(self.dense))
            tolerance = np.sqrt(persistence) * self.tolerance + np.sqrt(1 - persistence) * noise
            retention = max(0.0, float(self.shape(np.asarray(sparsity))))
            self.scores[sparsity] = self._score(sparsity, retention, tolerance)
        return self.scores[sparsity]

    def _score(self, sparsity: float, retention: float, tolerance: np.ndarray) -> np.ndarray:
        if self.kind == SMOOTH:
            return self.dense * max(LOWEST_RETENTION, retention) + (DRIFT[0] + DRIFT[1] * sparsity) * tolerance
        mean = self.mean
        odds = (1 - mean) / mean
        gained = max(min(CHURN * sparsity, 0.5 * retention / odds), (retention - 1) / odds)
        lost = np.clip(1 - retention + odds * gained, 0.0, 1.0)
        flips = tolerance < ndtri(np.where(self.dense == 1, lost, gained))
        return np.where(flips, 1 - self.dense, self.dense)


def draw_tasks(
    shapes: Sequence[Retention], kind: str, examples: int, tasks: int, seed: int, shared: float = 0.0
) -> list[list[SimulatedTask]]:
    """Draw the examples of several tasks, and models that are scored on them.

    Args:
        shapes: The retention curve of each model.
        kind: ``0/1`` or ``smooth``.
        examples: Number of examples of each task.
        tasks: Number of tasks.
        seed: Random seed. It also chooses the mean dense scores.
        shared: Share of the variance of an example's tolerance that is the same for all models.

    Returns:
        For each model, its tasks.
    """
    random = np.random.default_rng(seed)
    models: list[list[SimulatedTask]] = [[] for _ in shapes]
    for task in range(tasks):
        mean = DENSE_MEANS[(seed + task) % len(DENSE_MEANS)]
        if kind == BINARY:
            dense = (random.random(examples) < mean).astype(float)
        else:
            dense = random.beta(4 * mean, 4 * (1 - mean), size=examples)
        common = random.normal(size=examples)
        for shape, model in zip(shapes, models, strict=True):
            own = random.normal(size=examples)
            tolerance = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
            model.append(SimulatedTask(shape, kind, dense, tolerance, random, mean))
    return models
