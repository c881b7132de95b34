"""The terminal: output streams, the progress display, and text that is safe to print."""

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


def log(message: str) -> None:
    """Print one line to stderr.

    Args:
        message: Text without a trailing newline.
    """
    err.print(escape_markup(message), soft_wrap=True)


class ProgressDisplay:
    """Progress display on stderr: bars with the remaining time, or plain lines if stderr is not a terminal.

    The bars are shown from the first job on, so that errors in the arguments are printed without bars.
    """

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
        )
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
        log(message)

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
        if not err.is_terminal and description != self._last_description:
            log(description)
        self._last_description = description
        self._bars.start()
        self._bars.update(self._job, description=escape_markup(description), completed=finished, total=total)
