"""The table of all measured points, which readers of the page can sort and filter."""

from __future__ import annotations

from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows
from sparsedial.report.formatting import MISSING, format_interval, format_number, format_percent, sanitize_text
from sparsedial.report.page.html_elements import Column, SortableTable

CONDITIONS = {"Model": "model", "Rule": "rule", "Layers": "layers", "Task": "task"}
"""Columns that are shown if they have several values, by their headings. Else they are in the caption."""


def make_points_table(results: Results) -> SortableTable | None:
    """Make the table of all measured points.

    Args:
        results: The results of one or several studies.

    Returns:
        The table. None if there are no points.
    """
    if results.points.empty:
        return None
    frame = sort_rows(results.points)
    shown = [heading for heading, column in CONDITIONS.items() if frame[column].nunique() > 1]
    caption = []
    for heading, column in CONDITIONS.items():
        if heading not in shown:
            caption.append(f"{heading}: {sanitize_text(frame[column].iloc[0])}")
    rows = []
    for row in frame.to_dict("records"):
        retention = format_percent(row["retention"])
        interval = format_interval(row["low"], row["high"])
        cells = [sanitize_text(row[CONDITIONS[heading]]) for heading in shown]
        cells += [
            sanitize_text(row["site"]),
            format_number(row["p"]),
            format_percent(row["sparsity"]),
            retention,
            interval or MISSING,
            format_number(row["score"]),
            format_number(row["dense_score"]),
            sanitize_text(row["chosen_by"]),
        ]
        rows.append(cells)
    columns = [Column(heading, is_filtered=True) for heading in shown]
    columns += [
        Column("Site", is_filtered=True),
        Column("p"),
        Column("Sparsity"),
        Column("Retention"),
        Column("95% CI"),
        Column("Score"),
        Column("Dense score"),
        Column("Chosen by", is_filtered=True),
    ]
    return SortableTable("points", tuple(columns), rows, " · ".join(caption))
