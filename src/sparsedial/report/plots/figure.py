"""A figure of the page: its panels, its legend, and its numbers as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

from sparsedial.report.plots.palette import LineStyle
from sparsedial.report.supplementary_tables import DetailTable

WIDE = 520
"""Width in pixels of the panel of a figure that has only one."""

NARROW = 400
"""Width in pixels of one of several panels."""


@dataclass(frozen=True)
class Panel:
    """One plot of a figure.

    Attributes:
        title: Title of the plot. Empty if the figure has only one.
        description: Text alternative, with the most important numbers.
        width: Width in pixels.
        height: Height in pixels.
        content: SVG elements.
        layout: Attributes of the SVG element that the script reads, by name. Defaults to none.
        is_scrolled: True if the plot keeps its width on a small screen and is scrolled. Defaults to False.
    """

    title: str
    description: str
    width: float
    height: float
    content: str
    layout: dict[str, str] = field(default_factory=dict)
    is_scrolled: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        name: Name of its files, without a suffix. It is unique in the page.
        heading: Heading of the figure.
        notes: Sentences below the heading that explain what is drawn.
        panels: The plots.
        legend: Style of each line by its name. Empty for a figure whose lines are labelled.
        numbers: The numbers that are drawn. None if another table of the page has them.
        p_values: Values of p that a reader can choose. Empty if the figure shows all of them at once.
    """

    name: str
    heading: str
    notes: tuple[str, ...]
    panels: tuple[Panel, ...]
    legend: dict[str, LineStyle] = field(default_factory=dict)
    numbers: DetailTable | None = None
    p_values: tuple[float, ...] = ()

    @property
    def description(self) -> str:
        """Text alternative of the whole figure."""
        return " ".join([f"{self.heading}.", *map(attrgetter("description"), self.panels)])

    @property
    def widest(self) -> float:
        """Width of the widest plot in pixels."""
        return max(map(attrgetter("width"), self.panels))

    @property
    def column_count(self) -> int:
        """Number of plots that are side by side in a file, and on a wide screen."""
        if len(self.panels) > 1 and self.widest <= NARROW:
            return 2
        return 1


def panel_width(count: int) -> int:
    """Return the width of each plot in pixels.

    Args:
        count: Number of plots of a figure.
    """
    if count == 1:
        return WIDE
    return NARROW
