"""The output streams of the command line.

Results are printed to stdout, messages and progress to stderr. With ``--json``, stdout gets one JSON document and
nothing else.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout

from rich.console import Console

from sparsedial.cli.broken_pipe import end_with_broken_pipe
from sparsedial.measurement.progress_display import escape_markup


class _OutputConsole(Console):
    """Console of stdout."""

    def on_broken_pipe(self) -> None:
        """End the process as other programs do. Rich calls this method if nobody reads the output any more."""
        end_with_broken_pipe()


out = _OutputConsole()
"""Results: tables, their notes, and the paths of files."""
err = Console(stderr=True)
"""Messages and progress."""
errors = Console(stderr=True)
"""Errors, which are printed with ``--quiet``, too."""
_redirection = ExitStack()
"""Sends to stderr what libraries and tasks print while a command with ``--json`` runs."""


def set_output(json: bool, quiet: bool) -> None:
    """Choose what is printed where. Every command calls this function first.

    Args:
        json: Print the results as JSON, and the tables to stderr.
        quiet: Print no messages and no progress, and no tables if the results are printed as JSON.
    """
    err.quiet = quiet
    out.stderr = json
    out.quiet = json and quiet
    if json:
        _redirection.enter_context(redirect_stdout(sys.stderr))


def restore_output() -> None:
    """Undo `set_output`."""
    _redirection.close()
    set_output(json=False, quiet=False)


def print_json(document: bytes) -> None:
    """Print a JSON document to stdout.

    Args:
        document: ASCII text.
    """
    _redirection.close()
    try:
        print(document.decode(), end="", flush=True)
    except BrokenPipeError:
        end_with_broken_pipe()


def log(message: str) -> None:
    """Print one line to stderr.

    Args:
        message: Text without a trailing newline.
    """
    err.print(escape_markup(message), soft_wrap=True)
