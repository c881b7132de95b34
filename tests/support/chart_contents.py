"""The data and the text inside a chart."""

import xml.etree.ElementTree as ET

from sparsedial.report.charts.rendering import to_svg


def chart_data(chart):
    """Return the rows that a chart was given."""
    (values,) = chart.to_dict()["datasets"].values()
    return values


def svg_text(svg):
    """Return everything that an SVG shows as text."""
    return "".join(ET.fromstring(svg).itertext())


def chart_text(chart):
    """Return everything that a chart shows as text."""
    return svg_text(to_svg(chart))
