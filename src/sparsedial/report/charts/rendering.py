"""Rendering of charts as SVG, and of SVG as PNG."""

from __future__ import annotations

import altair as alt
import vl_convert


def to_svg(chart: alt.TopLevelMixin) -> str:
    """Render a chart as SVG, without access to the network.

    Args:
        chart: The chart.

    Returns:
        SVG text.
    """
    return vl_convert.vegalite_to_svg(chart.to_dict(), allowed_base_urls=[])


def to_png(svg: str) -> bytes:
    """Render an SVG as PNG with two pixels per point.

    Args:
        svg: SVG text.

    Returns:
        The bytes of the image.
    """
    return vl_convert.svg_to_png(svg, scale=2)
