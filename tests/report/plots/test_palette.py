"""Colours can be read on their background, and lines can be told apart without colours."""

from itertools import combinations

import pytest

from sparsedial.report.charts.theme import SITE_SHAPES
from sparsedial.report.page.content_security import page_style
from sparsedial.report.plots.chart_style import chart_css, page_colours, standalone_css
from sparsedial.report.plots.palette import (
    DARK,
    LIGHT,
    SERIES_COLOURS,
    SITE_COLOURS,
    SITE_DASHES,
    SPARE_COLOURS,
    contrast,
    series_styles,
    site_styles,
)

READABLE = ("ink", "soft", "link", "warn", *SITE_COLOURS, *SPARE_COLOURS, *SERIES_COLOURS)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_every_colour_of_texts_and_lines_has_a_contrast_of_4_5(colours):
    for name in READABLE:
        assert contrast(colours[name], colours["background"]) >= 4.5, name
    for name in ("ink", "soft"):
        assert contrast(colours[name], colours["surface"]) >= 4.5
    assert contrast(colours["ink"], colours["alarm-surface"]) >= 4.5


@pytest.mark.parametrize("is_dark", [False, True])
def test_numbers_in_a_heat_map_can_be_read_on_every_shade(is_dark):
    colours = page_colours(is_dark)
    shades = [name for name in colours if name.startswith("heat-text-")]
    assert len(shades) == 10
    for name in shades:
        assert contrast(colours[name], colours[name.replace("text-", "")]) >= 4.5, name


def test_both_backgrounds_have_the_same_colours():
    assert set(LIGHT) == set(DARK)
    assert all(f"--{name}:" in page_style() for name in LIGHT)


def test_sites_differ_in_shape_and_dash():
    styles = site_styles(SITE_COLOURS)
    for first, second in combinations(styles.values(), 2):
        assert first.shape != second.shape and first.dash != second.dash
    assert set(SITE_DASHES) == set(SITE_SHAPES) == set(SITE_COLOURS)


def test_a_registered_site_gets_a_spare_style_and_the_others_keep_theirs():
    styles = site_styles(["gate", "mine", "yours"])
    assert styles["gate"] == site_styles(["input", "gate"])["gate"]
    assert styles["mine"].colour != styles["yours"].colour
    assert {styles["mine"].colour, styles["yours"].colour} <= set(SPARE_COLOURS)


def test_six_series_differ_in_colour_shape_and_dash():
    styles = list(series_styles("abcdef").values())
    for attribute in ("colour", "shape", "dash"):
        assert len({getattr(style, attribute) for style in styles}) == 6


def test_a_file_with_one_figure_needs_no_variable_of_the_page():
    assert "var(" in chart_css()
    assert "var(" not in standalone_css()
