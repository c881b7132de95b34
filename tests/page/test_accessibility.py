"""axe finds no violation, everything can be reached with the keyboard, and every chart has its numbers as text."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.page.conftest import SIZES


@pytest.mark.parametrize(("name", "size", "scheme"), [
    ("single", "desktop", "light"), ("single", "phone", "dark"), ("several", "phone", "light"),
    ("pair", "desktop", "dark"), ("pair", "tablet", "light"),
])  # fmt: skip
def test_axe_finds_no_violation(visit, request, name, size, scheme):
    page = visit(request.getfixturevalue(name), SIZES[size], scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_every_plot_has_a_text_alternative_with_numbers(visit, several):
    page = visit(several).page
    labels = page.eval_on_selector_all("svg.plot", "plots => plots.map(plot => plot.getAttribute('aria-label'))")
    assert labels and all(any(map(str.isdigit, label)) for label in labels)
    for figure in page.locator("figure.chart").all():
        assert figure.locator(".numbers").count() == 1 or figure.get_attribute("id").startswith("differences")


def test_the_points_of_a_chart_are_reached_with_the_arrow_keys(visit, single):
    page = visit(single).page
    plots = page.locator("#retention .plots")
    plots.focus()
    texts = []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        texts.append(page.locator("#tip").text_content())
    assert len(set(texts)) == 3 and all("retention" in text for text in texts)
    page.keyboard.press("ArrowLeft")
    assert page.locator("#tip").text_content() == texts[1]
    page.keyboard.press("Escape")
    assert page.locator("#tip").text_content() == ""


def test_layers_are_reached_with_the_arrow_keys(visit, single):
    page = visit(single).page
    page.locator("#layers .plots").focus()
    page.keyboard.press("ArrowRight")
    assert "layer 0 · sparsity" in page.locator("#tip").text_content()


def test_tables_and_buttons_are_in_the_order_of_the_tab_key(visit, single):
    page = visit(single, SIZES["phone"]).page
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert {"DIV.plots", "DIV.wide", "BUTTON.", "SUMMARY."} <= reached
