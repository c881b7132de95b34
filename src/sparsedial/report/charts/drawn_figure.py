"""A figure for publications: a chart with its name and its caption."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt


@dataclass(frozen=True)
class Figure:
    """A chart of a publication.

    Attributes:
        name: Name of its files, without a suffix.
        description: Text alternative for readers who cannot see it.
        chart: The chart.
    """

    name: str
    description: str
    chart: alt.TopLevelMixin
