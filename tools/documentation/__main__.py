"""Build the documentation site, with warnings as errors.

    python -m tools.documentation

The site is in ``build/site``. Its sources, the pages of ``docs/`` with the files that they link to, are in
``build/docs``. An error is a broken link, a warning of the site generator, or a page that is not in the navigation of
``mkdocs.yml``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tools.documentation.built_site import find_broken_links
from tools.documentation.command_line_page import add_commands
from tools.documentation.sources import OUTSIDE, BrokenLinkError, SiteSources

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
COMMAND_LINE_PAGE = Path("reference/command-line.md")


def main() -> int:
    """Build and check the site, and return the exit code."""
    sources = SiteSources(ROOT, BUILD / "docs")
    try:
        sources.add_documentation(find_outside_pages())
    except BrokenLinkError as error:
        return fail(str(error))
    missing = find_pages_without_navigation()
    if missing:
        return fail(f"not in the navigation of mkdocs.yml: {', '.join(missing)}")
    add_commands(BUILD / "docs" / COMMAND_LINE_PAGE)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", "mkdocs.yml"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(process.stdout + process.stderr)
    if process.returncode != 0:
        return fail("the site was not built")
    problems = find_broken_links(BUILD / "site")
    if problems:
        return fail("broken links in the built site:\n" + "\n".join(problems))
    print("the site is in build/site: open build/site/index.html")
    return 0


def find_pages_without_navigation() -> list[str]:
    """Return the pages of ``docs/`` that the navigation does not name."""
    navigation = set(list_pages(read_configuration()["nav"]))
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [page for page in pages if page not in navigation]


def find_outside_pages() -> list[str]:
    """Return the pages of the navigation that are not in ``docs/``, relative to the repository."""
    prefix = f"{OUTSIDE}/"
    return [page.removeprefix(prefix) for page in list_pages(read_configuration()["nav"]) if page.startswith(prefix)]


def read_configuration() -> dict:
    """Return the content of ``mkdocs.yml``. Python names in it are left out."""

    class Loader(yaml.SafeLoader):
        """Reads any tag as nothing."""

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def list_pages(navigation: list | dict | str) -> list[str]:
    """Return the pages of a navigation, in order.

    Args:
        navigation: A page, a list of entries, or a mapping of a title and an entry.

    Example:
        >>> list_pages([{"Home": "index.md"}, {"Reference": ["a.md", {"B": "b.md"}]}])
        ['index.md', 'a.md', 'b.md']
    """
    if isinstance(navigation, str):
        return [navigation]
    entries = navigation.values() if isinstance(navigation, dict) else navigation
    pages = []
    for entry in entries:
        pages += list_pages(entry)
    return pages


def fail(message: str) -> int:
    """Print an error and return the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
