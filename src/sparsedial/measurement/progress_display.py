"""The progress display: bars in a terminal and in a notebook, otherwise plain lines."""

from __future__ import annotations

from importlib.util import find_spec

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

MIN_BAR_WIDTH = 6
MAX_BAR_WIDTH = 24

STANDARD_WIDTH = 80
"""Width of a terminal from which the elapsed time is shown."""

WIDTH_OF_NUMBERS = 37
"""Width of the progress display apart from bar and description: spinner, counts, times and the blanks between them."""


def printable(text: str) -> str:
    r"""Replace control characters, so that text such as a model name cannot control the terminal.

    Args:
        text: Any text.

    Returns:
        The text. Each control character except line feeds is replaced by the Unicode replacement character.

    Example:
        >>> printable("evil\x1b[31mname").isprintable()
        True
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def escape_markup(text: str) -> str:
    """Return text that rich prints literally, without control characters.

    Args:
        text: Any text.

    Returns:
        Rich markup.
    """
    return escape(printable(text))


class ProgressDisplay:
    """Progress display: bars with the remaining time, or plain lines where bars cannot be shown.

    The bars are shown from the first job on, so that errors in the arguments are printed without bars. A description
    that is too long for the terminal loses its beginning, because its end names the site and the rule.

    Args:
        console: Where to show it. Defaults to stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        width = self._console.width
        columns: list[ProgressColumn] = [
            SpinnerColumn("line" if self._console.options.ascii_only else "dots"),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=_bar_width(width)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
        ]
        if width >= STANDARD_WIDTH:
            columns.append(TimeElapsedColumn(table_column=Column(no_wrap=True)))
        columns += [TextColumn("left"), TimeRemainingColumn(table_column=Column(no_wrap=True))]
        self._bars = Progress(*columns, console=self._console)
        self._trials = self._bars.add_task("trials", total=None)
        self._job = self._bars.add_task("starting", total=None)
        self._last_description = ""

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def log(self, message: str) -> None:
        """Print one line above the bars.

        Args:
            message: Text without a trailing newline.
        """
        self._console.print(escape_markup(message), soft_wrap=True)

    def set_total(self, finished: float, total: float) -> None:
        """Update the bar of all trials.

        Args:
            finished: Number of finished trials.
            total: Number of trials.
        """
        self._bars.update(self._trials, completed=finished, total=total)

    def set_current(self, description: str, finished: int, total: int) -> None:
        """Update the bar of the current job.

        Args:
            description: Description of the job.
            finished: Number of finished steps of the job.
            total: Number of steps of the job.
        """
        if _can_show_bars(self._console):
            self._bars.start()
            width = self._console.width
            text = _keep_end(description, width - _bar_width(width) - WIDTH_OF_NUMBERS)
            self._bars.update(self._job, description=escape_markup(text), completed=finished, total=total)
        elif description != self._last_description:
            self.log(f"{description}{self._count_trials()}")
        self._last_description = description

    def _count_trials(self) -> str:
        """Return the number of finished trials for a plain line. Empty before the first trial is finished."""
        task = self._bars.tasks[self._trials]
        if not task.total:
            return ""
        return f" ({task.completed:.0f} of {task.total:.0f} trials finished)"


def _can_show_bars(console: Console) -> bool:
    """Return True in a terminal, and in a notebook that has the package through which rich updates its output."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal


def _bar_width(terminal_width: int) -> int:
    """Return the width of the bars.

    >>> _bar_width(60), _bar_width(80), _bar_width(200)
    (6, 10, 24)
    """
    return max(MIN_BAR_WIDTH, min(MAX_BAR_WIDTH, terminal_width // 4 - MIN_BAR_WIDTH - 4))


def _keep_end(text: str, width: int) -> str:
    """Return a text, shortened at its beginning if it is longer than a width.

    >>> _keep_end("tiny, arc_easy, input top_p 0.9", 16)
    '…input top_p 0.9'
    """
    if len(text) <= width:
        return text
    return f"…{text[len(text) - width + 1 :]}"
