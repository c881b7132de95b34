"""Pieces of the HTML page. Every text that comes from results is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from sparsedial.report.charts.theme import SITE_COLOURS, SPARE_COLOURS
from sparsedial.report.critical_table import INTERPRETATION, SITE, SPARSITY, CriticalTable
from sparsedial.report.formatting import sanitize_text
from sparsedial.report.row_interpretation import WARNING
from sparsedial.report.supplementary_tables import DetailTable

MAX_UNFOLDED_ROWS = 40
"""Tables with more rows are collapsed until the reader opens them."""


def escape(value: object) -> str:
    """Return text for HTML, without control characters and with its special characters escaped.

    Args:
        value: Text from the results, or any other value.

    Returns:
        Text that is safe between tags and in quoted attributes.
    """
    return html.escape(sanitize_text(value))


def render_list(texts: Iterable[object]) -> str:
    """Return texts as an unordered list.

    Args:
        texts: Text of each item, not escaped.

    Returns:
        HTML. Empty if there are no items.
    """
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    if not items:
        return ""
    return f"<ul>{items}</ul>"


def fold(summary: str, content: str) -> str:
    """Return content that is collapsed until the reader opens it (``<details>``).

    Args:
        summary: Text that stays visible, not escaped.
        content: HTML of the content.

    Returns:
        HTML.
    """
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def render_critical_table(table: CriticalTable) -> str:
    """Return the table of critical sparsities.

    Args:
        table: The table as text.

    Returns:
        HTML with one group of rows for each set of conditions.
    """
    bodies = []
    columns = table.columns
    for group in table.groups:
        rows = []
        for row in group.rows:
            rows.append(_render_row(columns, list(row.cells.values())))
        bodies.append(_render_group(_describe_conditions(group.conditions), len(columns), rows))
    caption = f"<caption>{_describe_conditions(table.common)}</caption>"
    return _render_table(columns, bodies, caption)


def render_detail_table(table: DetailTable) -> str:
    """Return a detail table with its description. Long tables are collapsed.

    Args:
        table: The table as text.

    Returns:
        HTML.
    """
    bodies = []
    rows: list[str] = []
    for index, row in enumerate(table.rows):
        rows.append(_render_row(table.columns, row))
        is_last = index + 1 == len(table.rows)
        if is_last or table.groups[index + 1] != table.groups[index]:
            bodies.append(_render_group(escape(table.groups[index]), len(table.columns), rows))
            rows = []
    content = _render_table(table.columns, bodies)
    if len(table.rows) > MAX_UNFOLDED_ROWS:
        content = fold(f"{len(table.rows)} rows", content)
    return f"<p>{escape(table.description)}</p>{content}"


def _render_table(columns: Sequence[str], bodies: Sequence[str], caption: str = "") -> str:
    headings = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    return (
        f'<div class="wide"><table class="results">{caption}<thead><tr>{headings}</tr></thead>{"".join(bodies)}'
        "</table></div>"
    )


def _render_group(heading: str, column_count: int, rows: Sequence[str]) -> str:
    if heading:
        heading = f'<tr><th scope="rowgroup" colspan="{column_count}">{heading}</th></tr>'
    return f"<tbody>{heading}{''.join(rows)}</tbody>"


def _render_row(columns: Sequence[str], texts: Sequence[str]) -> str:
    cells = "".join(map(_render_cell, columns, texts))
    return f"<tr>{cells}</tr>"


def _render_cell(column: str, text: str) -> str:
    if column == SITE:
        colour = SITE_COLOURS.get(text, SPARE_COLOURS[-1])
        return f'<th scope="row"><i style="background:{colour}"></i>{escape(text)}</th>'
    css_class = ""
    if WARNING in text:
        css_class = ' class="warning"'
    elif column == INTERPRETATION:
        css_class = ' class="interpretation"'
    elif column == SPARSITY:
        css_class = ' class="share"'
    return f"<td{css_class}>{escape(text)}</td>"


def _describe_conditions(conditions: Mapping[str, str]) -> str:
    return " · ".join(f"{escape(name)}: <b>{escape(text)}</b>" for name, text in conditions.items())
