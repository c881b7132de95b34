"""Measure how much activation sparsity the feed-forward layers of a language model tolerate."""

from __future__ import annotations

import os
import sys

import typer

from sparsedial.cli.console import err
from sparsedial.cli.figures_command import figures
from sparsedial.cli.fsck_command import fsck
from sparsedial.cli.inspect_command import inspect
from sparsedial.cli.optional_values import OptionalValueCommand
from sparsedial.cli.report_command import report
from sparsedial.cli.run_command import run
from sparsedial.cli.study_command import study
from sparsedial.errors import SparsedialError
from sparsedial.measurement.progress_display import escape_markup
from sparsedial.study.output_encoding import make_output_encodable

EXIT_USER_ERROR = 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(inspect)
app.command(cls=OptionalValueCommand)(run)
for command in (study, fsck, report, figures):
    app.command()(command)


def main() -> None:
    """Run the command line. Expected errors are printed without a traceback, and the exit code is 2."""
    make_output_encodable()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(standalone_mode=True)
    except SparsedialError as error:
        err.print(f"[red]error:[/] {escape_markup(str(error))}", soft_wrap=True)
        sys.exit(EXIT_USER_ERROR)
