"""Links in the documentation and in the shipped reports lead to files and headings that exist."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.html"), *ROOT.glob("src/**/*.md"),
         *ROOT.glob("packages/**/*.md")]  # fmt: skip


def links(page):
    """Return the targets of a page's links and images, without those on the network and without an HTML page's own."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".html":
        return re.findall(r'(?:href|src)="(?!\w+:|#)([^"]+)"', text)
    return re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text)


def anchors(page):
    """Return the anchors of a Markdown page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), link


def test_links_are_found(tmp_path):
    assert "tasks.md#options" in links(ROOT / "docs" / "studies.md")
    page = tmp_path / "page.html"
    page.write_text('<a href="critical.csv">a</a> <a href="https://example.org">b</a> <a href="#c">c</a>', "utf-8")
    assert links(page) == ["critical.csv"]
