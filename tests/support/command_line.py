"""The command line in this process, where starting another one would only import torch again."""

import io
import os
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from sparsedial.cli import console
from sparsedial.cli.main import main
from sparsedial.measurement.silent_libraries import silent_libraries

CONSOLES = (console.out, console.err, console.errors)


@dataclass(frozen=True)
class Completed:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def run_sparsedial(*args, columns=200, cwd=None, encoding="utf-8"):
    """Run a command as the shell does: with its own arguments, streams and width of the terminal."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    stderr = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    widths = [each._width for each in CONSOLES]
    with ExitStack() as cleanup:
        cleanup.enter_context(mock.patch.dict(os.environ, {"COLUMNS": str(columns)}))
        cleanup.enter_context(mock.patch.object(sys, "argv", ["sparsedial", *map(str, args)]))
        cleanup.enter_context(silent_libraries())  # as in a process of its own, where they are imported later
        cleanup.enter_context(redirect_stdout(stdout))
        cleanup.enter_context(redirect_stderr(stderr))
        if cwd is not None:
            cleanup.enter_context(chdir(cwd))
        for each in CONSOLES:
            each._width = columns
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            for each, width in zip(CONSOLES, widths, strict=True):
                each._width = width
    return Completed(code, _text(stdout), _text(stderr))


def _text(stream):
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)
