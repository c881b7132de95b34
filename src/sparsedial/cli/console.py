"""The output streams of the command line."""

from __future__ import annotations

from rich.console import Console

from sparsedial.measurement.progress_display import escape_markup

out = Console()
err = Console(stderr=True)


def log(message: str) -> None:
    """Print one line to stderr.

    Args:
        message: Text without a trailing newline.
    """
    err.print(escape_markup(message), soft_wrap=True)
