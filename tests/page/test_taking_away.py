"""Figures, tables and the whole page can be saved, copied and printed."""

import csv
import io
import xml.etree.ElementTree as ET

import pytest

TABLES = ("critical", "points")


def download(page, button):
    """Click on a button and return the name and the content of the file that it saves."""
    with page.expect_download() as event:
        button.click()
    return event.value.suggested_filename, event.value.path().read_bytes()


def test_a_figure_is_saved_as_svg_with_its_legend_and_as_png(visit, single):
    visited = visit(single)
    figure = visited.page.locator("#retention")
    name, svg = download(visited.page, figure.locator("button", has_text="SVG"))
    assert name == "retention.svg"
    text = "".join(ET.fromstring(svg).itertext())
    assert all(part in text for part in ("Retention over sparsity", "all_inputs", "sparsity (share dropped)"))
    name, png = download(visited.page, figure.locator("button", has_text="PNG"))
    assert name == "retention.png" and png.startswith(b"\x89PNG") and len(png) > 10_000
    assert visited.messages == []


def test_a_saved_figure_shows_what_the_reader_chose(visit, single):
    page = visit(single).page
    whole = download(page, page.locator("#retention button", has_text="SVG"))[1]
    page.locator("#retention .legend button").first.click()
    part = download(page, page.locator("#retention button", has_text="SVG"))[1]
    assert len(part) < len(whole)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_saved_as_csv_with_all_digits(visit, single, name):
    page = visit(single).page
    block = page.locator(f".table-block[data-name='{name}']").first
    file_name, content = download(page, block.locator("button", has_text="CSV"))
    assert file_name == f"{name}.csv"
    assert content == (single.parent / "report" / f"{name}.csv").read_bytes()


def test_the_layers_of_every_p_are_saved_as_csv(visit, single):
    page = visit(single).page
    _, content = download(page, page.locator("#layers button", has_text="CSV of every p"))
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert len(rows) == 6 * 3 * 6  # vectors, values of p, layers
    shown = list(csv.DictReader(io.StringIO((single.parent / "report" / "layers.csv").read_text())))
    numbers = {(row["site"], row["vector"], row["p"], row["layer"]): float(row["sparsity"]) for row in rows}
    for row in shown:
        expected = float(row["sparsity"])
        assert numbers[row["site"], row["vector"], row["p"], row["layer"]] == pytest.approx(expected, abs=1e-5)


def test_a_table_is_copied_as_markdown(visit, single):
    visited = visit(single, permissions=["clipboard-read", "clipboard-write"])
    page = visited.page
    button = page.locator(".table-block[data-name='critical'] button", has_text="Markdown").first
    button.click()
    page.wait_for_function("document.querySelector('.table-block[data-name=critical] button').textContent === 'Copied'")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0].startswith("| Site | Critical sparsity (95% CI) | p | Skippable MACs |")
    assert lines[0].endswith("| Interpretation |")
    assert set(lines[1]) <= set("|- ")
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| input | ")


def test_it_prints_to_a_pdf_in_light_colours_with_everything_open(visit, single):
    page = visit(single, scheme="dark").page
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".tools:visible").count() == 0
    assert page.locator("figure:visible").count() == page.locator("figure").count()


def test_printing_shows_every_model(visit, several):
    page = visit(several).page
    assert page.locator("section.of-model:visible").count() == 1
    page.emulate_media(media="print")
    assert page.locator("section.of-model:visible").count() == 4


def test_the_command_and_the_versions_are_in_the_page(visit, single):
    text = visit(single).page.locator("section", has_text="Provenance").last.inner_text()
    assert "sparsedial run" in text or "sparsedial study" in text
    assert "Command" in text
