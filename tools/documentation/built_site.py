"""Check the links of a built site: each leads to a file, and each anchor to an element of its page."""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class PageParser(HTMLParser):
    """Collects the links and the anchors of an HTML page.

    Attributes:
        links: Targets of links, images, scripts and style sheets.
        anchors: Values of ``id`` and ``name``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Read the attributes of an element."""
        for name, value in attrs:
            if value is None:
                continue
            if name in ("href", "src"):
                self.links.append(value)
            elif name in ("id", "name"):
                self.anchors.add(value)


@cache
def parse_page(path: Path) -> PageParser:
    """Return the links and anchors of an HTML file."""
    parser = PageParser()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def find_broken_links(site: Path) -> list[str]:
    """Return one line for each link of a built site that leads nowhere.

    Args:
        site: Folder of the built site.

    Returns:
        Lines that name the page and the link.
    """
    problems = []
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # its links start at the address of the site, which is not known here
            continue
        for link in dict.fromkeys(parse_page(page).links):
            if not leads_somewhere(page, link):
                problems.append(f"{page.relative_to(site)}: {link}")
    return problems


def leads_somewhere(page: Path, link: str) -> bool:
    """Return True if a link leads to an existing file and anchor, or to another site.

    Args:
        page: HTML file that has the link.
        link: Target of the link.
    """
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return False
    is_page_anchor = bool(parts.fragment) and target.suffix == ".html" and not parts.fragment.startswith("__")
    return not is_page_anchor or unquote(parts.fragment) in parse_page(target).anchors
