"""The terminal: where lines go, progress while a study runs, and names that cannot write to it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

out = Console()
err = Console(stderr=True)


def say(message: str) -> None:
    """A line on stderr."""
    err.print(escape(printable(message)), soft_wrap=True)


def printable(text: str) -> str:
    r"""Without control characters: a name cannot write to the terminal.

    >>> printable("evil\x1b[31mname").isprintable()
    True
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


class Screen:
    """Progress with time left, on stderr; plain lines where that is not a terminal."""

    def __init__(self) -> None:
        self.bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=err,
        )  # fmt: skip
        self.trials = self.bars.add_task("trials", total=None)
        self.now = self.bars.add_task("starting", total=None)
        self.last = ""

    def __enter__(self) -> Screen:
        return self  # the bars appear with the first work: what is wrong with the words is said without them

    def __exit__(self, *_: object) -> None:
        if self.bars.live.is_started:
            self.bars.stop()

    def say(self, message: str) -> None:
        """A line above the bars."""
        err.print(escape(printable(message)), soft_wrap=True)

    def expect(self, done: float, of: float) -> None:
        """The bar of all trials."""
        self.bars.update(self.trials, completed=done, total=of)

    def work(self, what: str, done: int, of: int) -> None:
        """The bar of the one that is being run."""
        if not err.is_terminal and what != self.last:
            err.print(escape(printable(what)), soft_wrap=True)
        self.last = what
        self.bars.start()
        self.bars.update(self.now, description=escape(printable(what)), completed=done, total=of)
