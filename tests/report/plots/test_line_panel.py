"""Lines stay visible where they coincide, and points outside of the plot are not drawn."""

import re
import xml.etree.ElementTree as ET

from sparsedial.report.plots.line_panel import Line, LinePlot, Point, draw_line_panel
from sparsedial.report.plots.palette import series_styles
from sparsedial.report.plots.plot_frame import Axis, format_share


def draw(*lines, **changes):
    """Draw lines on axes from 0 to 1."""
    axis = Axis("share", 0.0, 1.0, format_share)
    plot = LinePlot("", "What is drawn.", axis, axis, lines, **changes)
    return draw_line_panel(plot, series_styles([line.name for line in lines]), 520, 300)


def line(name, heights, **changes):
    """Return a line through points at equal distances."""
    points = [Point(index / 10, height, f"{name} {index}", **changes) for index, height in enumerate(heights)]
    return Line(name, tuple(points))


def test_a_line_below_a_coinciding_one_is_wider_and_named():
    panel = draw(line("a", (0.2, 0.4, 0.5)), line("b", (0.2, 0.4, 0.5)), line("c", (0.9, 0.8, 0.7)))
    assert re.findall(r'class="(l[^"]*)"', panel.content) == ["l u1", "l", "l"]
    assert panel.description == "What is drawn. The line of a is drawn wider, because b coincides with it."


def test_lines_that_only_cross_are_not_wider():
    panel = draw(line("a", (0.2, 0.4, 0.6)), line("b", (0.6, 0.4, 0.2)))
    assert re.findall(r'class="(l[^"]*)"', panel.content) == ["l", "l"]


def test_only_points_inside_of_the_axes_have_marks():
    panel = draw(line("a", (0.5, 0.6, 1.4)))
    titles = [element.text for element in ET.fromstring(f"<svg>{panel.content}</svg>").iter("title")]
    assert titles == ["a 0", "a 1"]


def test_an_interval_without_an_upper_end_has_an_arrow():
    closed = draw(line("a", (0.5,), low=0.4, high=0.6)).content
    opened = draw(line("a", (0.5,), low=0.4, high=0.6, is_high_open=True)).content
    assert closed.count('class="i"') == opened.count('class="i"') == 1
    assert 'class="e"' in opened and 'class="e"' not in closed


def test_names_are_escaped():
    panel = draw(line("<script>", (0.1, 0.2)), line('"><b', (0.1, 0.2)))
    assert not [element.tag for element in ET.fromstring(f"<svg>{panel.content}</svg>").iter() if element.tag == "b"]
    assert "<script>" not in panel.content
