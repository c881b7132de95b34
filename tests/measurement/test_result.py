"""What a measurement shows: as text, in a notebook, as a report, and its curves."""

import re
from xml.etree import ElementTree

import pytest

import sparsedial as sd
from sparsedial.errors import SpecError, StorageError
from tests.measurement.conftest import SMALL


@pytest.fixture(scope="module")
def result(llama):
    return sd.measure(llama, **{**SMALL, "sites": ["input", "intermediate"]})


def test_the_text_is_the_table_of_the_command_line(result):
    lines = repr(result).splitlines()
    assert len(lines) < 25 and max(map(len, lines)) <= 100
    assert any(re.match(r"input +\S", line) for line in lines)
    assert str(result) == repr(result)


def test_a_notebook_shows_a_table_and_a_figure(result):
    html = result._repr_html_()
    tree = ElementTree.fromstring(html)
    assert tree.find(".//table") is not None
    image = tree.find(".//img")
    assert image.get("src").startswith("data:image/svg+xml;base64,") and image.get("alt")
    assert "<style" not in html  # the styles of the notebook stay as they are


def test_the_page_alone_or_with_its_files(result, tmp_path):
    page = result.report(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "<svg" in page.read_text() and "Data files" not in page.read_text()
    page = result.report(tmp_path / "folder")
    assert page == tmp_path / "folder" / "report.html"
    assert (tmp_path / "folder" / "critical.csv").exists() and "Data files" in page.read_text()


def test_a_file_that_is_no_page_is_not_replaced(result, tmp_path):
    notes = tmp_path / "notes.html"
    notes.write_text("my notes")
    with pytest.raises(StorageError, match="not of an earlier report"):
        result.report(notes)
    assert notes.read_text() == "my notes"
    page = result.report(tmp_path / "page.html")
    assert result.report(page) == page


@pytest.mark.parametrize("path", ["", None, 3])
def test_a_report_needs_a_path(result, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=f"path {path!r}: expected a directory, or a file whose name ends in .html"):
        result.report(path)
    assert list(tmp_path.iterdir()) == []


def test_curves_are_found_by_what_distinguishes_them(result):
    curve = result.curve("input")
    assert sd.critical_sparsity(curve).low == result.critical.set_index("site")["low"]["input"]
    assert result.curve("input", "self_prediction", rule="top_p", model="LlamaForCausalLM") is curve
    with pytest.raises(SpecError, match="several values of site: choose one of input, intermediate"):
        result.curve()
    with pytest.raises(SpecError, match=r"unknown site 'inptu'.*did you mean 'input'"):
        result.curve("inptu")
