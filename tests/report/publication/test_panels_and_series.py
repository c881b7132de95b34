"""Panels fill a page, and series can be told apart without colour."""

from itertools import combinations

import pytest

from sparsedial.ffn.feed_forward import SITES
from sparsedial.report.publication.panels import PANEL_SPACING, PANEL_WIDTHS, count_columns, upper_end
from sparsedial.report.publication.series import (
    REFERENCE_FILLS,
    add_reference_styles,
    series_styles,
    site_styles,
    size_styles,
)


@pytest.mark.parametrize("count", PANEL_WIDTHS)
def test_panels_fit_side_by_side(count):
    assert PANEL_WIDTHS[count] * count + PANEL_SPACING * (count - 1) <= 500


@pytest.mark.parametrize(
    ("panels", "columns"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 5), (8, 4), (10, 5), (16, 4), (7, 5)],
)
def test_full_rows_are_preferred_if_they_cost_one_column_at_most(panels, columns):
    assert count_columns(["task"] * panels) == columns


def test_long_titles_take_more_room():
    assert count_columns(["x" * 60] * 4) == 1
    assert count_columns(["x" * 30] * 4) == 2


def test_an_axis_ends_at_a_round_number():
    assert upper_end([0.52, 0.61]) == pytest.approx(0.7)
    assert upper_end([0.5]) == pytest.approx(0.5)
    assert upper_end([]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "styles", [site_styles(SITES), series_styles(["a", "b", "c", "d", "e"]), size_styles(["1b", "3b", "8b", "70b"])]
)
def test_series_differ_in_more_than_their_colour(styles):
    for first, second in combinations(styles.values(), 2):
        assert first.colour != second.colour
        assert first.shape != second.shape
        assert first.dash != second.dash


def test_larger_models_are_darker():
    styles = list(size_styles(["1b", "3b", "70b"]).values())
    brightness = [sum(int(style.colour[i : i + 2], 16) for i in (1, 3, 5)) for style in styles]
    assert brightness == sorted(brightness, reverse=True)
    assert len(size_styles([str(number) for number in range(15)])) == 15


def test_several_references_differ_in_their_fill():
    rows = [{"reference": name, "site": "gate"} for name in ("a", "b", "a")]
    styles = {style.name: style for style in add_reference_styles(site_styles(["gate"]), rows, "site")}
    assert [row["series"] for row in rows] == ["gate (a)", "gate (b)", "gate (a)"]
    assert [styles[name].fill for name in ("gate (a)", "gate (b)")] == list(REFERENCE_FILLS[:2])
    assert [name for name, style in styles.items() if style.is_in_legend] == ["gate", "a", "b"]
