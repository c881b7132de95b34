"""Measure how much activation sparsity the feed-forward layers of a language model tolerate."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sparsedial import __version__
from sparsedial.cli.console import err, errors, restore_output
from sparsedial.cli.empty_values import ValueCheckingCommand
from sparsedial.cli.exit_codes import EXIT_INTERRUPTED, EXIT_USER_ERROR
from sparsedial.cli.figures_command import figures
from sparsedial.cli.fsck_command import fsck
from sparsedial.cli.inspect_command import inspect
from sparsedial.cli.optional_values import OptionalValueCommand
from sparsedial.cli.report_command import report
from sparsedial.cli.run_command import run
from sparsedial.cli.study_command import study
from sparsedial.errors import SparsedialError
from sparsedial.measurement.progress_display import escape_markup
from sparsedial.models.offline_mode import set_hub_offline
from sparsedial.study.output_encoding import make_output_encodable

EPILOG = "Exit codes: 0 done, 1 finished with failed trials or damaged files, 2 error of the user, 130 interrupted."
MEASURE_PANEL = "Measure"
RESULTS_PANEL = "Results of earlier runs"


class InterruptibleGroup(TyperGroup):
    """Group of commands that Ctrl-C ends with the exit code of an interrupted process."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Args:
            ctx: Context of the group.

        Returns:
            The result of the command.

        Raises:
            typer.Exit: The user pressed Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        finally:
            restore_output()


app = typer.Typer(
    cls=InterruptibleGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help=__doc__,
    epilog=EPILOG,
)
app.command(cls=ValueCheckingCommand, rich_help_panel=MEASURE_PANEL)(inspect)
app.command(cls=OptionalValueCommand, rich_help_panel=MEASURE_PANEL)(run)
app.command(cls=ValueCheckingCommand, rich_help_panel=MEASURE_PANEL)(study)
for command in (report, figures, fsck):
    app.command(cls=ValueCheckingCommand, rich_help_panel=RESULTS_PANEL)(command)


def _print_version(is_requested: bool) -> None:
    """Print the version and end, if it was requested."""
    if is_requested:
        print(f"sparsedial {__version__}")
        raise typer.Exit


@app.callback()
def show_version(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Measure how much activation sparsity the feed-forward layers of a language model tolerate."""


def run_application() -> None:
    """Run the command line. Expected errors are printed without a traceback, and the exit code is 2."""
    make_output_encodable()
    set_hub_offline()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(standalone_mode=True)
    except SparsedialError as error:
        errors.print(f"[red]error:[/] {escape_markup(str(error))}", soft_wrap=True)
        sys.exit(EXIT_USER_ERROR)
