"""Rendering of charts as SVG and PNG files."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import vl_convert

from sparsedial.report.csv_and_json import write_file


def to_svg(chart: alt.TopLevelMixin) -> str:
    """Render a chart as SVG, without access to the network.

    Args:
        chart: The chart.

    Returns:
        SVG text.
    """
    return vl_convert.vegalite_to_svg(chart.to_dict(), allowed_base_urls=[])


def save_chart(chart: alt.TopLevelMixin, path: Path | str) -> str:
    """Write a chart as SVG and as PNG with two pixels per point.

    Args:
        chart: The chart.
        path: Path of the files, without ``.svg`` and ``.png``.

    Returns:
        SVG text.

    Raises:
        StorageError: A file cannot be written.
    """
    svg = to_svg(chart)
    target = Path(path)
    write_file(target.with_name(f"{target.name}.svg"), svg.encode())
    write_file(target.with_name(f"{target.name}.png"), vl_convert.svg_to_png(svg, scale=2))
    return svg
