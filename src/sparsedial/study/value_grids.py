"""Named grids of values of a rule's parameter."""

from __future__ import annotations

from sparsedial.errors import SpecError
from sparsedial.suggestions import describe_unknown

VALUE_GRIDS: dict[str, tuple[float, ...]] = {
    "paper": (
        1.0, 0.995, 0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65,
        0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0,
    ),
}  # fmt: skip
"""Grids by name. "paper" is that of arXiv 2509.00454."""


def find_value_grid(name: str) -> tuple[float, ...]:
    """Return the values of a named grid.

    Args:
        name: A key of `VALUE_GRIDS`.

    Raises:
        SpecError: There is no grid of this name.

    Example:
        >>> len(find_value_grid("paper"))
        26
    """
    if name not in VALUE_GRIDS:
        raise SpecError(describe_unknown("grid of values", name, tuple(VALUE_GRIDS)))
    return VALUE_GRIDS[name]
