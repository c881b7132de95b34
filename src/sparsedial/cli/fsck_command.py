"""``sparsedial fsck``: list the problems of a study."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from sparsedial.cli.console import out, print_json, set_output
from sparsedial.cli.exit_codes import EXIT_INCOMPLETE
from sparsedial.cli.options import JsonOutput, Quiet
from sparsedial.measurement.progress_display import escape_markup

SCHEMA = 1
"""Version of the JSON document."""


def fsck(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a run.")],
    json: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """List the problems of a study: missing, failed, corrupt, conflicting and invalid trials, and unused files.

    The study is not changed. The exit code is 1 if there are problems.
    """
    from sparsedial.report.csv_and_json import to_json
    from sparsedial.study.folder_layout import check_holds_study
    from sparsedial.study.integrity import find_problems
    from sparsedial.study.store import Store

    set_output(json, quiet)
    check_holds_study(folder)
    problems = find_problems(Store(folder))
    for kind, group in groupby(problems, key=lambda problem: problem.kind):
        members = list(group)
        out.print(f"[yellow]{kind}[/] ({len(members)}): {kind.advice}")
        for problem in members:
            out.print(f"  {escape_markup(problem.text)}", soft_wrap=True)
    if not problems:
        out.print("no problems")
    if json:
        entries = []
        for problem in problems:
            entries.append({"kind": problem.kind.value, "advice": problem.kind.advice, "problem": problem.text})
        print_json(to_json({"schema": SCHEMA, "problems": entries}))
    if problems:
        raise typer.Exit(EXIT_INCOMPLETE)
