"""The command line of the tables and figures of rules and criteria."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from sparsedial.report.charts.rendering import to_svg
from sparsedial.report.csv_and_json import to_csv, write_file
from tools import rule_study
from tools.rule_study import calibration_data, criteria, rules_and_sites
from tools.rule_study.study_curves import StudyTable, read_study_curves

COMMANDS: Mapping[str, Callable[..., StudyTable]] = {
    "rules": rules_and_sites.make_table,
    "data-free": calibration_data.make_table,
    "criteria": criteria.make_table,
}


def main() -> None:
    """Print the table, and write the numbers and the figure."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.rule_study",
        description=rule_study.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="Table and figure to make.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="Directories of studies.")
    parser.add_argument("--out", type=Path, default=Path(), help="Directory of the files. Default: the current one.")
    parser.add_argument("--tables", type=Path, help="Directory of the CSV file. Default: that of --out.")
    parser.add_argument("--name", help="Name of the files without suffix. Default: the command.")
    arguments = parser.parse_args()

    table = COMMANDS[arguments.command](read_study_curves(arguments.folders))
    print(table.markdown)
    name = arguments.name or arguments.command
    write_file((arguments.tables or arguments.out) / f"{name}.csv", to_csv(table.rows))
    write_file(arguments.out / f"{name}.svg", to_svg(table.figure).encode())


if __name__ == "__main__":
    main()
