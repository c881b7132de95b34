"""Tooltips, the legend, sorting, filtering, the choice of p and of the model work."""

import re

import pytest


def mark_position(page, selector):
    """Return the centre of an element on the screen."""
    element = page.locator(selector).first
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_tooltip_has_the_numbers_and_highlights_the_line(visit, single):
    page = visit(single).page
    page.mouse.move(*mark_position(page, "#retention .s[data-s='2'] .m"))
    text = page.locator("#tip").text_content()
    assert re.search(r"p = 0\.\d+ · sparsity \d+\.\d% · retention \d+\.\d% \(\d+\.\d–\d+\.\d%\) · score", text)
    assert page.locator("#retention.focus .s.on").count() == 1
    page.mouse.move(5, 5)
    assert page.locator("#tip").text_content() == ""
    assert page.locator("#retention.focus").count() == 0


def test_a_tap_shows_the_tooltip_of_an_interval(visit, single):
    page = visit(single, has_touch=True).page
    page.touchscreen.tap(*mark_position(page, "#critical .r >> nth=1"))
    assert "critical sparsity" in page.locator("#tip").text_content()


def test_a_tooltip_of_a_line_of_layers_has_its_number(visit, single):
    page = visit(single).page
    box = page.locator("#layers svg.plot").first
    box.scroll_into_view_if_needed()
    place = mark_position(page, "#layers .s[data-s='0'] .l")
    page.mouse.move(*place)
    assert re.search(r"layer \d · sparsity \d+\.\d% · p = 0\.\d+", page.locator("#tip").text_content())


def test_the_legend_hides_and_shows_a_line(visit, single):
    page = visit(single).page
    button = page.locator("#retention .legend button").first
    line = page.locator("#retention .s[data-s='0']")
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and line.is_hidden()
    button.click()
    assert button.get_attribute("aria-pressed") == "true" and line.is_visible()
    page.locator("#retention .legend button").nth(1).hover()
    assert page.locator("#retention .s.on").get_attribute("data-s") == "1"


def test_points_are_sorted_by_number(visit, single):
    page = visit(single).page
    heading = page.locator("#points th", has_text="Sparsity")
    index = heading.evaluate("cell => cell.cellIndex") + 1
    for direction in ("ascending", "descending"):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == direction
        texts = page.locator(f"#points tbody td:nth-child({index})").all_text_contents()
        numbers = [float(text.rstrip("%")) for text in texts]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert len(numbers) == 15


def test_points_are_filtered_by_site(visit, single):
    page = visit(single).page
    page.locator("#points label", has_text="Site").locator("select").select_option("gate")
    visible = page.locator("#points tbody tr:not([hidden])")
    assert visible.count() == 3
    assert set(visible.locator("th").all_text_contents()) == {"gate"}
    assert page.locator("#points .tools span").text_content() == "3 of 15 rows"


@pytest.mark.parametrize("figure", ["[id^=layers][id$=mixture-7b-a1b]", "#experts", "#experts-histogram"])
def test_layers_and_experts_are_shown_for_each_measured_p(visit, several, figure):
    page = visit(several).page
    page.locator(".switch select").select_option(label="mixture-7b-a1b")
    paths = f"{figure} [data-k], {figure} [data-h]"
    read = "paths => paths.map(path => path.getAttribute('d'))"
    first = page.eval_on_selector_all(paths, read)
    drawn = set()
    for p in ("0.98", "0.8"):
        page.locator(f"{figure} select").select_option(p)
        drawn.add(tuple(page.eval_on_selector_all(paths, read)))
    assert len(drawn) == 2
    page.locator(f"{figure} select").select_option("")
    assert page.eval_on_selector_all(paths, read) == first


def test_the_line_of_a_chosen_p_has_the_numbers_of_the_data(visit, single):
    page = visit(single).page
    page.locator("#layers select").select_option("0.8")
    path = page.locator("#layers [data-k='0']").get_attribute("d")
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent).layers[0]")
    low, high, start, end = map(float, page.locator("#layers svg.plot").get_attribute("data-y").split())
    heights = [float(y) for y in re.findall(r" ([\d.]+)", path)]
    values = [low + (height - start) / (end - start) * (high - low) for height in heights]
    assert values == pytest.approx(data["sparsity"][data["p"].index(0.8)], abs=0.002)


def test_one_model_is_shown_at_a_time_or_all(visit, several):
    page = visit(several).page
    select = page.locator(".switch select")
    names = page.locator(".switch option").all_text_contents()
    assert names[0] == "all models" and len(names) == 5
    for name in names[1:]:
        select.select_option(label=name)
        assert page.locator("section.of-model:visible").count() == 1
        assert page.locator("section.of-model:visible").get_attribute("data-model") == name
    select.select_option("")
    assert page.locator("section.of-model:visible").count() == 4


def test_two_models_are_side_by_side_with_their_difference(visit, pair):
    page = visit(pair).page
    rows = page.locator("h2:has-text('Side by side') ~ .table-block, h2:has-text('Side by side') ~ p").first
    assert "family-base-100m against family-instruct-400m" in rows.text_content()
    table = page.locator("section", has=page.locator("h2", has_text="Side by side")).locator("table").first
    headings = table.locator("thead th").all_text_contents()
    assert headings == ["Site", "family-base-100m", "family-instruct-400m", "Difference (95% CI)", "Examples"]
    assert table.locator("tbody tr").first.locator("td").last.text_content() == "the same"
    assert page.locator("#differences-1-models svg.plot").count() == 1
    assert page.locator("#retention-by-model svg.plot").count() == 2


def test_examples_whose_answer_changed_are_listed(visit, single):
    page = visit(single).page
    section = page.locator("section", has=page.locator("h2", has_text="What changes")).first
    table = section.locator("table").nth(1)
    assert table.locator("thead th").all_text_contents() == ["ID", "Question", "Dense answer", "Sparse answer", "Score"]
    row = table.locator("tbody tr").nth(1).locator("td").all_text_contents()
    assert row[0].startswith("question-") and row[2:] == ["right", "wrong", "1 → 0"]
