"""The two metrics that compare a sparse model with tokens sampled from the dense model."""

from __future__ import annotations

from sparsedial.errors import SpecError

AGREEMENT = "agreement"
"""Share of the sampled tokens that are the arg max of the scored model."""
EXPECTED_AGREEMENT = "expected_agreement"
"""Mean probability, under the dense model, of the arg max of the scored model: the expected value of `AGREEMENT`."""
METRICS = (EXPECTED_AGREEMENT, AGREEMENT)


def check_metric(task_name: str, metric: str) -> None:
    """Raise an error if a metric is unknown.

    Args:
        task_name: Name of the task, for the error message.
        metric: Name of the metric.

    Raises:
        SpecError: The metric is unknown.
    """
    if metric not in METRICS:
        raise SpecError(f"{task_name}: metric={metric!r}: expected {' or '.join(METRICS)}")
