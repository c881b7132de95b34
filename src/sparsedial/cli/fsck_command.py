"""``sparsedial fsck``: list the problems of a study."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from sparsedial.cli.console import out
from sparsedial.measurement.progress_display import escape_markup


def fsck(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a run.")]) -> None:
    """List the problems of a study: missing, failed, corrupt, conflicting and invalid trials, and unused files.

    The study is not changed. The exit code is 1 if there are problems.
    """
    from sparsedial.study.folder_layout import check_holds_study
    from sparsedial.study.integrity import find_problems
    from sparsedial.study.store import Store

    check_holds_study(folder)
    problems = find_problems(Store(folder))
    for kind, group in groupby(problems, key=lambda problem: problem.kind):
        members = list(group)
        out.print(f"[yellow]{kind}[/] ({len(members)}): {kind.advice}")
        for problem in members:
            out.print(f"  {escape_markup(problem.text)}", soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    out.print("no problems")
