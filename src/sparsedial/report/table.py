"""The critical sparsities as a table: its cells in words, and the table for the terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from sparsedial.report.words import estimate, goal, is_wide, leading, meaning, number, plain, short, size, sort_rows

if TYPE_CHECKING:
    from sparsedial.study.results import Results

SITE, MEANING = "Site", "What it says"
NARROW = {"FFN multiplications skippable": "FFN skippable"}  # headings for a terminal
SAID_ONCE = ("Model", "Rule", "Layers", "Task", "Dense score", "Examples")


@dataclass(frozen=True)
class Cells:
    """A table in words, ready to be escaped: what is the same in every row is said once, in ``common``.

    Attributes:
        columns: the headings. rows: one text per column, free of control characters.
        common: heading and text of what all rows share (of `SAID_ONCE`).
    """

    columns: list[str]
    rows: list[dict[str, str]]
    common: dict[str, str]


def critical_cells(results: Results) -> Cells:
    """The rows of ``results.critical`` in words, in the report's order."""
    said = []
    for _, row in sort_rows(results.critical).iterrows():
        status, is_open = row["status"], number(row.get("open")) == 1.0
        said.append(
            {
                "Model": plain(row["model"]) + (f" ({parameters})" if (parameters := size(row["parameters"])) else ""),
                "Rule": plain(row["rule"]),
                "Layers": plain(row["layers"]),
                "Task": plain(row["task"]),
                SITE: plain(row["site"]),
                "Critical sparsity (95%)": estimate(row["value"], row["low"], row["high"], status, is_open),
                "p": short(row["p"]),
                "FFN multiplications skippable": estimate(
                    row["skippable"], row["skippable_low"], row["skippable_high"], status, is_open
                ),
                "Dense score": f"{short(row['dense_score'])} {plain(row['metric'])}",
                "Examples": short(row["examples"]),
                MEANING: meaning(row, results.retain),
            }
        )
    common = {name: said[0][name] for name in SAID_ONCE if len({row[name] for row in said}) == 1}
    columns = [name for name in said[0] if name not in common] if said else [SITE, MEANING]
    return Cells(columns, [{name: row[name] for name in columns} for row in said], common)


def split(results: Results) -> tuple[Results, Results]:
    """What is shown first, and the rest: of several models the averages first, of one everything."""
    critical = results.critical
    if critical.empty or critical["model"].nunique() == 1:
        return results, replace(results, critical=critical.head(0))
    main = leading(critical)
    return replace(results, critical=main), replace(results, critical=critical.drop(main.index))


def critical_table(results: Results) -> Table:
    """The same table for the terminal, with marks for words; names are text, never markup or control characters."""
    results, others = split(results)  # a terminal is no place for hundreds of rows
    cells = critical_cells(results)
    columns = [name for name in cells.columns if name != MEANING and name not in SAID_ONCE]
    about = ", ".join(f"{name.lower()} {text}" for name, text in cells.common.items())
    about += "\nthe averages; the report has the tasks one by one" if len(others.critical) else ""
    if results.problems:
        about += f"\n⚠ problems ({len(results.problems)}): not everything that was asked for is here"
    marked = [is_wide(row) for _, row in sort_rows(results.critical).iterrows()]
    if any(marked):
        about += "\n⚠ the interval spans more than 10 points, or may do so: too few examples (the report says how many)"
    if any("≥" in text for row in cells.rows for text in row.values()):
        about += f"\n≥ a lower bound: the last point measured still keeps {goal(results.retain)}, or may do so"
    table = Table(
        title=Text(f"Critical sparsity: what can be dropped with {goal(results.retain)} of the score kept"),
        caption=Text(about) if about else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for name in columns:
        heading = NARROW.get(name, name)
        table.add_column(heading, overflow="fold", style="bold" if name == SITE else "")
    before = None
    for row, wide in zip(cells.rows, marked, strict=True):
        said = {name: text for name, text in row.items() if name in SAID_ONCE}
        if said and said != before:  # a row of its own for what the rows below share
            table.add_section()
            about_rows = " · ".join(said[name] for name in ("Model", "Rule", "Layers", "Task") if name in said)
            score, examples = said.get("Dense score"), said.get("Examples")
            shared = [about_rows, f"dense {score}" if score else "", "", f"{examples} examples" if examples else ""]
            table.add_row(*(Text(text, style="italic") for text in shared[: len(columns)]))
            before = said
        marks = [" ⚠" if wide and name.startswith("Critical") else "" for name in columns]
        table.add_row(*(Text(row[name] + mark) for name, mark in zip(columns, marks, strict=True)))
    return table
