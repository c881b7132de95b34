"""The critical sparsities as a table: its cells in words, and the table for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from sparsedial.report.words import estimate, goal, meaning, plain, short, size, sort_rows

if TYPE_CHECKING:
    from sparsedial.study.results import Results

SITE, MEANING = "Site", "What it says"
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
        status = row["status"]
        said.append(
            {
                "Model": plain(row["model"]) + (f" ({parameters})" if (parameters := size(row["parameters"])) else ""),
                "Rule": plain(row["rule"]),
                "Layers": plain(row["layers"]),
                "Task": plain(row["task"]),
                SITE: plain(row["site"]),
                "Critical sparsity (95%)": estimate(row["value"], row["low"], row["high"], status),
                "p": short(row["p"]),
                "FFN multiplications skippable": estimate(
                    row["skippable"], row["skippable_low"], row["skippable_high"], status
                ),
                "Dense score": f"{short(row['dense_score'])} {plain(row['metric'])}",
                "Examples": short(row["examples"]),
                MEANING: meaning(row, results.retain),
            }
        )
    common = {name: said[0][name] for name in SAID_ONCE if len({row[name] for row in said}) == 1}
    columns = [name for name in said[0] if name not in common] if said else [SITE, MEANING]
    return Cells(columns, [{name: row[name] for name in columns} for row in said], common)


def critical_table(results: Results) -> Table:
    """The same table for the terminal; names are text, never markup, and hold no control characters."""
    cells = critical_cells(results)
    about = ", ".join(f"{name.lower()} {text}" for name, text in cells.common.items())
    table = Table(
        title=Text(f"Critical sparsity: what can be dropped with {goal(results.retain)} of the score kept"),
        caption=Text(about) if about else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for name in cells.columns:
        table.add_column(name, overflow="fold", no_wrap=name == SITE, style="bold" if name == SITE else "")
    before: dict[str, str] = {}
    for row in cells.rows:
        same = [row[name] == before.get(name) for name in cells.columns if name in SAID_ONCE]
        if before and not all(same):
            table.add_section()
        repeated = all(same) and bool(before)
        texts = ["" if repeated and name in SAID_ONCE else row[name] for name in cells.columns]
        table.add_row(*(Text(text, style="yellow" if "⚠" in text else "") for text in texts))
        before = row
    return table
