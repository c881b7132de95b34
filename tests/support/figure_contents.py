"""The text and the marks inside a figure of the page."""

import re
import xml.etree.ElementTree as ET


def panel_root(panel):
    """Return the elements of a panel."""
    return ET.fromstring(f"<svg>{panel.content}</svg>")


def tooltips(figure):
    """Return the texts that are shown on demand, of all panels."""
    texts = []
    for panel in figure.panels:
        texts += [element.text for element in panel_root(panel).iter("title")]
    return texts


def figure_text(figure):
    """Return everything that a figure shows as text."""
    parts = [figure.heading, *figure.notes, *figure.legend]
    for panel in figure.panels:
        parts.append(panel.description)
        parts += panel_root(panel).itertext()
    return " ".join(parts)


def marks(panel, css_class):
    """Return the elements of a class, such as ``m`` for filled and ``o`` for open points."""
    return [element for element in panel_root(panel).iter() if css_class in (element.get("class") or "").split()]


def coordinates(path):
    """Return the positions of a path of straight lines."""
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path.get("d"))]
