"""Code blocks of the documentation, and what their markers say.

A block is executed, unless a comment in front of it says otherwise:

- ``<!-- checked only: REASON -->``: the block is parsed, and its names, options and files are checked;
- ``<!-- run with NEW instead of OLD -->``: the block is executed with another text, such as a smaller model;
- ``<!-- setup: CODE -->``: Python that readers do not need and that is executed first.

A block whose first line is a comment with the name of a file is written to this file, for later blocks.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([
    ROOT / "README.md",
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("src/**/README.md"),
    *ROOT.glob("packages/**/README.md"),
    ROOT / "benchmarks" / "README.md",
])  # fmt: skip
COMMENT = r" *<!-- (?P<marker>checked only: (?:.*?)|run with (?:.*?)) -->\n+"
BLOCK = re.compile(
    rf"^(?:{COMMENT})?(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$"
    r"|^<!-- setup:\n(?P<setup>.*?)-->$",
    re.MULTILINE | re.DOTALL,
)
SHELL = ("sh", "bash", "shell", "console")
FILE_NAME = re.compile(r"^# (?P<name>[\w./-]+\.(?:py|ya?ml|toml|sh|json|txt))\b")
INLINE_COMMAND = re.compile(r"(?<!`)`(sparsedial [^`\n]+)`(?!`)|^    (sparsedial [^\n]+)$", re.MULTILINE)


@dataclass(frozen=True)
class CodeBlock:
    """One code block of a page.

    Attributes:
        page: File that holds it.
        line: Line of the page on which the code starts.
        language: Language that the page states, such as "python".
        code: The code.
        reason: Why the block is only checked. None if it is executed.
        replacement: The text to replace before the block is executed, and the new one. None if there is none.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None = None
    replacement: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        """The page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """Name of the file that the first line states."""
        match = FILE_NAME.match(self.code)
        return match["name"] if match else None

    @property
    def executed_code(self) -> str:
        """The code with its replacement."""
        if self.replacement is None:
            return self.code
        old, new = self.replacement
        assert old in self.code, f"{self.place}: the text {old!r}, which the marker names, is not in the block"
        return self.code.replace(old, new)


def read_blocks(page: Path) -> list[CodeBlock]:
    """Return the code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in BLOCK.finditer(text):
        if match["setup"] is not None:
            line = text.count("\n", 0, match.start("setup")) + 1
            blocks.append(CodeBlock(page, line, "python", match["setup"]))
            continue
        line = text.count("\n", 0, match.start("code")) + 1
        code = textwrap.dedent(match["code"])
        reason, replacement = parse_marker(match["marker"] or "")
        blocks.append(CodeBlock(page, line, match["language"], code, reason, replacement))
    return blocks


def parse_marker(marker: str) -> tuple[str | None, tuple[str, str] | None]:
    """Return why a block is only checked, and what to replace in it."""
    if marker.startswith("checked only: "):
        return marker.removeprefix("checked only: "), None
    if marker.startswith("run with "):
        new, old = marker.removeprefix("run with ").split(" instead of ")
        return None, (old, new)
    return None, None


def inline_commands(page: Path) -> list[tuple[int, str]]:
    """Return the command lines in the text of a page, with their line numbers."""
    text = re.sub(BLOCK, lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))
    commands = []
    for match in INLINE_COMMAND.finditer(text):
        commands.append((text.count("\n", 0, match.start()) + 1, match[1] or match[2]))
    return commands
