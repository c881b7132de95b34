"""The pages: their readers, their place in the navigation, their links and pictures."""

import re
import shutil

import pytest

from tests.docs.blocks import PAGES, ROOT
from tools.documentation import concept_figures
from tools.documentation.__main__ import find_pages_without_navigation, list_pages, read_configuration
from tools.documentation.built_site import find_broken_links, parse_page
from tools.documentation.docstring_examples import name_examples
from tools.documentation.sources import BrokenLinkError, SiteSources

READERS = ("researcher", "inference engineer", "model designer")
DOCUMENTATION = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]


@pytest.mark.parametrize("page", DOCUMENTATION, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_its_readers_first(page):
    title, first, *_ = page.read_text().split("\n\n")
    assert title.startswith("# ")
    assert re.match(r"\*?For ", first)
    assert any(reader in " ".join(first.split()) for reader in READERS)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    assert not find_pages_without_navigation()
    for page in list_pages(read_configuration()["nav"]):
        outside = page.removeprefix("source/")
        assert (ROOT / outside if outside != page else ROOT / "docs" / page).is_file(), page


@pytest.fixture
def repository(tmp_path):
    """A small repository with two pages, a script and a folder."""
    root = tmp_path / "repository"
    (root / "docs" / "more").mkdir(parents=True)
    (root / "tools" / "parts").mkdir(parents=True)
    (root / "docs" / "a.md").write_text("# A\n\n[b](more/b.md#b) [run](../tools/run.py) [parts](../tools/parts)\n")
    (root / "docs" / "more" / "b.md").write_text("# B\n\n[readme](../../tools/README.md)\n\n```\n[no](link)\n```\n")
    (root / "tools" / "README.md").write_text("# Tools\n\n[a](../docs/a.md) [data](parts/data.json)\n")
    (root / "tools" / "run.py").write_text("print(1)\n")
    (root / "tools" / "parts" / "data.json").write_text("{}")
    return root


def test_links_out_of_the_documentation_lead_to_copies(repository, tmp_path):
    site = tmp_path / "site"
    SiteSources(repository, site).add_documentation()
    assert (
        "[b](more/b.md#b) [run](source/tools/run.py.md) [parts](source/tools/parts/files.md)"
        in (site / "a.md").read_text()
    )
    assert "[readme](../source/tools/README.md)" in (site / "more" / "b.md").read_text()
    assert "[no](link)" in (site / "more" / "b.md").read_text()
    assert "[a](../../a.md) [data](parts/data.json)" in (site / "source" / "tools" / "README.md").read_text()
    assert "print(1)" in (site / "source" / "tools" / "run.py.md").read_text()
    assert "[data.json](data.json)" in (site / "source" / "tools" / "parts" / "files.md").read_text()
    assert (site / "source" / "tools" / "parts" / "data.json").is_file()


def test_file_names_as_link_texts_become_titles(repository, tmp_path):
    (repository / "docs" / "a.md").write_text("# A\n\n[more/b.md](more/b.md#b) and [this](more/b.md)\n")
    SiteSources(repository, tmp_path / "site").add_documentation()
    assert "[B](more/b.md#b) and [this](more/b.md)" in (tmp_path / "site" / "a.md").read_text()


def test_a_link_to_nothing_is_an_error_that_names_the_page(repository, tmp_path):
    shutil.rmtree(repository / "tools" / "parts")
    with pytest.raises(BrokenLinkError) as error:
        SiteSources(repository, tmp_path / "site").add_documentation()
    assert "docs/a.md: the link ../tools/parts leads to no file" in str(error.value)
    assert "tools/README.md: the link parts/data.json leads to no file" in str(error.value)


def test_broken_links_of_a_built_site_are_found(tmp_path):
    parse_page.cache_clear()
    good = '<h1 id="top">A</h1><a href="b.html#there">b</a> <a href="https://example.org/x">c</a> <a href="#top">d</a>'
    (tmp_path / "a.html").write_text(good + '<a href="b.html#missing">e</a> <img src="none.svg"> <a href="#no">f</a>')
    (tmp_path / "b.html").write_text('<p id="there">B</p><a href="a.html">a</a>')
    assert find_broken_links(tmp_path) == ["a.html: b.html#missing", "a.html: none.svg", "a.html: #no"]


def test_examples_of_docstrings_become_a_section():
    assert name_examples("Add.\n\nExample:\n    >>> 1\n    1") == "Add.\n\nExamples:\n    >>> 1\n    1"
    assert name_examples("Add.") == "Add."


@pytest.mark.filterwarnings("default")
def test_the_pictures_of_the_concepts_are_drawn(tmp_path, monkeypatch, capsys):
    words = [
        "concept_figures",
        str(tmp_path),
        "--model",
        "zoo:dense-0.4m",
        "--sequences",
        "8",
        "--study",
        str(tmp_path / "study"),
    ]
    monkeypatch.setattr("sys.argv", words)
    concept_figures.main()
    page = (ROOT / "docs" / "concepts.md").read_text()
    drawn = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert drawn == sorted(re.findall(r"figures/(concepts-[\w-]+\.svg)", page))
    for name in drawn:
        assert (tmp_path / name).read_text().startswith("<svg")
        assert (ROOT / "docs" / "figures" / name).is_file()
    assert "concepts-site.svg" in capsys.readouterr().out
