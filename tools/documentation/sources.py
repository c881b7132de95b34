"""Copy the pages of the site, and every file that they link to, into one folder from which the site is built.

Pages of ``docs/`` keep their place. Links that leave ``docs/`` work in the repository, but not on the site, so the
files that they lead to become part of it, under ``source/``: Markdown as pages, code as pages that show it, folders as
lists of their files, and anything else as it is. Links in these pages are followed as well.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s]+)(\))")
FILE_LABEL = re.compile(r"\[[\w/.-]+\.md\]\((?!\w+:|#)([^)\s#]+)([^)\s]*)\)")
"""A link whose text is the name of the file."""

FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}


OUTSIDE = "source"
"""Folder of the site for files that are not in ``docs/``."""


class BrokenLinkError(Exception):
    """Links that lead to no file."""


def prose_spans(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of a page in order, each with True if it is prose and False if it is a fenced code block."""
    end = 0
    for block in FENCED.finditer(text):
        yield True, text[end : block.start()]
        yield False, block[0]
        end = block.end()
    yield True, text[end:]


def replace_links(text: str, replacement: Callable[[str], str]) -> str:
    """Replace the target of each relative link of a Markdown page, except in code blocks.

    Args:
        text: The page.
        replacement: Function from a target, such as "tasks.md#options", to another one.

    Example:
        >>> replace_links("[a](b.md) and [c](https://example.org)", str.upper)
        '[a](B.MD) and [c](https://example.org)'
    """
    return substitute(LINK, lambda link: link[1] + replacement(link[2]) + link[3], text)


def name_pages(text: str, folder: Path) -> str:
    """Replace file names as texts of links, which are good in the repository, by the titles of the pages.

    Args:
        text: The page.
        folder: Folder of the page.
    """

    def name_page(link: re.Match[str]) -> str:
        target = folder / link[1]
        if not target.is_file():
            return link[0]
        title = target.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{title}]({link[1]}{link[2]})"

    return substitute(FILE_LABEL, name_page, text)


def substitute(pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str], text: str) -> str:
    """Replace what matches a pattern in a page, except in code blocks."""
    parts = []
    for is_prose, part in prose_spans(text):
        if is_prose:
            parts.append(pattern.sub(replacement, part))
        else:
            parts.append(part)
    return "".join(parts)


class SiteSources:
    """The folder from which the site is built.

    Args:
        root: The repository.
        folder: The folder to write. Its earlier content is removed.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root.resolve()
        self.folder = folder
        self.problems: list[str] = []
        self._copied: set[Path] = set()
        if folder.exists():
            shutil.rmtree(folder)

    def add_documentation(self, others: Iterable[str] = ()) -> None:
        """Copy ``docs/``, other files, and everything that these pages link to.

        Args:
            others: Files outside of ``docs/``, relative to the repository.

        Raises:
            BrokenLinkError: Links lead to no file.
        """
        for path in sorted((self.root / "docs").rglob("*")):
            if path.is_file():
                self.add(path)
        for other in others:
            self.add(self.root / other)
        if self.problems:
            raise BrokenLinkError("\n".join(self.problems))

    def add(self, path: Path) -> None:
        """Copy a file or a folder of the repository, and what its links lead to, unless this has been done."""
        if path in self._copied:
            return
        self._copied.add(path)
        target = self.folder / self.place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            target.write_text(self._list_folder(path), encoding="utf-8")
        elif path.suffix == ".md":
            titled = name_pages(path.read_text(encoding="utf-8"), path.parent)
            page = replace_links(titled, lambda link: self._move_link(path, link))
            target.write_text(page, encoding="utf-8")
        elif path.suffix in CODE_LANGUAGES:
            code = path.read_text(encoding="utf-8")
            title = path.relative_to(self.root).as_posix()
            fence = "`````"
            target.write_text(f"# {title}\n\n{fence}{CODE_LANGUAGES[path.suffix]}\n{code}{fence}\n", encoding="utf-8")
        else:
            shutil.copyfile(path, target)

    def place(self, path: Path) -> Path:
        """Return where a file or folder of the repository is in the site's folder.

        Args:
            path: Absolute path in the repository.

        Returns:
            Path relative to the site's folder. Code and folders become pages.
        """
        relative = path.relative_to(self.root)
        place = Path(*relative.parts[1:]) if relative.parts[0] == "docs" else Path(OUTSIDE) / relative
        if path.is_dir():
            return place / "files.md"
        if path.suffix in CODE_LANGUAGES:
            return place.with_name(place.name + ".md")
        return place

    def _move_link(self, page: Path, link: str) -> str:
        name, mark, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / name))
        if not target.is_relative_to(self.root) or not target.exists():
            self.problems.append(f"{page.relative_to(self.root)}: the link {link} leads to no file")
            return link
        self.add(target)
        moved = os.path.relpath(self.place(target), self.place(page).parent)
        return Path(moved).as_posix() + mark + anchor

    def _list_folder(self, folder: Path) -> str:
        lines = [f"# {folder.relative_to(self.root).as_posix()}", ""]
        for path in sorted(folder.rglob("*")):
            is_listed = path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
            if is_listed:
                self.add(path)
                link = os.path.relpath(self.place(path), self.place(folder).parent)
                lines.append(f"- [{path.relative_to(folder).as_posix()}]({Path(link).as_posix()})")
        return "\n".join(lines) + "\n"
