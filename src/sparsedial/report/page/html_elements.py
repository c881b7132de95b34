"""Pieces of the HTML page. Every text that comes from results is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from sparsedial.report.critical_table import INTERPRETATION, SITE, SPARSITY, CriticalTable
from sparsedial.report.formatting import sanitize_text
from sparsedial.report.plots.palette import SITE_COLOURS, SPARE_COLOURS
from sparsedial.report.row_interpretation import WARNING
from sparsedial.report.supplementary_tables import DetailTable

MAX_UNFOLDED_ROWS = 40
"""Tables with more rows are collapsed until the reader opens them."""

LONG_TEXT = 28
"""Cells with more characters are wrapped."""


@dataclass(frozen=True)
class Column:
    """A column of a table that readers can sort.

    Attributes:
        heading: Heading of the column.
        is_filtered: True if readers can choose one of its values.
    """

    heading: str
    is_filtered: bool = False


@dataclass(frozen=True)
class SortableTable:
    """A table without groups of rows, which readers can sort and filter.

    Attributes:
        name: Name of its file with all digits, without a suffix.
        columns: The columns.
        rows: The text of each row.
        caption: What all rows have in common. Empty for nothing.
    """

    name: str
    columns: tuple[Column, ...]
    rows: list[list[str]]
    caption: str = ""


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


def fold(summary: str, content: str, css_class: str = "") -> str:
    """Return content that is collapsed until the reader opens it (``<details>``).

    Args:
        summary: Text that stays visible, not escaped.
        content: HTML of the content.
        css_class: Class of the element. Defaults to none.

    Returns:
        HTML.
    """
    return f"<details{_attribute('class', css_class)}><summary>{escape(summary)}</summary>{content}</details>"


def render_critical_table(table: CriticalTable, label: str = "Critical sparsity") -> str:
    """Return the table of critical sparsities.

    Args:
        table: The table as text.
        label: Label of the table for assistive technology. It is unique in the page.

    Returns:
        HTML with one group of rows for each set of conditions. The interpretation of a row is below its numbers.
    """
    bodies = []
    columns = list(filter(INTERPRETATION.__ne__, table.columns))
    for group in table.groups:
        rows = []
        for row in group.rows:
            rows.append(_render_row(columns, list(map(row.cells.__getitem__, columns))))
            rows.append(_render_interpretation(row.cells[INTERPRETATION], len(columns)))
        bodies.append(_render_group(_describe_conditions(group.conditions), len(columns), rows))
    caption = f"<caption><div>{_describe_conditions(table.common)}</div></caption>"
    return _render_block("critical", label, _render_table(columns, bodies, caption))


def render_detail_table(table: DetailTable, name: str = "") -> str:
    """Return a detail table with its description. Long tables are collapsed.

    Args:
        table: The table as text.
        name: Name of its file with all digits. Defaults to none.

    Returns:
        HTML.
    """
    content = render_bare_table(table, name)
    if len(table.rows) > MAX_UNFOLDED_ROWS:
        content = fold(f"{len(table.rows)} rows", content)
    if not table.description:
        return content
    return f"<p>{escape(table.description)}</p>{content}"


def render_bare_table(table: DetailTable, name: str = "", label: str = "") -> str:
    """Return a detail table without its description.

    Args:
        table: The table as text.
        name: Name of its file with all digits. Defaults to none.
        label: Label of the table for assistive technology. Defaults to its heading.

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
    return _render_block(name, label or table.heading, _render_table(table.columns, bodies))


def render_sortable_table(table: SortableTable) -> str:
    """Return a table that readers can sort and filter. Long tables are collapsed.

    Args:
        table: The table as text.

    Returns:
        HTML.
    """
    headings = []
    for column in table.columns:
        css_class = "choice" * column.is_filtered
        headings.append(f'<th scope="col"{_attribute("class", css_class)}>{escape(column.heading)}</th>')
    names = list(map(attrgetter("heading"), table.columns))
    rows = "".join(map(partial(_render_row, names), table.rows))
    caption = ""
    if table.caption:
        caption = f"<caption><div>{escape(table.caption)}</div></caption>"
    content = (
        f'<table class="results sortable">{caption}<thead><tr>{"".join(headings)}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    block = _render_block(table.name, table.name, content)
    if len(table.rows) > MAX_UNFOLDED_ROWS:
        return fold(f"{len(table.rows)} rows", block)
    return block


def site_class(site: str) -> str:
    """Return the class that gives a site its colour.

    Args:
        site: Name of the site.
    """
    return f"c-{site if site in SITE_COLOURS else SPARE_COLOURS[0]}"


def _attribute(name: str, value: str) -> str:
    """Return an attribute with a space before it. Empty without a value."""
    if not value:
        return ""
    return f' {name}="{escape(value)}"'


def _render_block(name: str, label: str, table: str) -> str:
    """Return a table in a container that scrolls, with its name for the script."""
    return (
        f'<div class="table-block"{_attribute("data-name", name)}><div class="wide" tabindex="0" role="region" '
        f'aria-label="Table: {escape(label)}">{table}</div></div>'
    )


def _render_table(columns: Sequence[str], bodies: Sequence[str], caption: str = "") -> str:
    headings = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    return f'<table class="results">{caption}<thead><tr>{headings}</tr></thead>{"".join(bodies)}</table>'


def _render_interpretation(text: str, column_count: int) -> str:
    """Return the explanation of the row above, below its numbers, so that it takes no width from them."""
    css_class = "interpretation"
    if WARNING in text:
        css_class = "warning"
    return f'<tr class="about"><td colspan="{column_count}"><div class="{css_class}">{escape(text)}</div></td></tr>'


def _render_group(heading: str, column_count: int, rows: Sequence[str]) -> str:
    if heading:
        heading = f'<tr><th scope="rowgroup" colspan="{column_count}"><div>{heading}</div></th></tr>'
    return f"<tbody>{heading}{''.join(rows)}</tbody>"


def _render_row(columns: Sequence[str], texts: Sequence[str]) -> str:
    cells = "".join(map(_render_cell, columns, texts))
    return f"<tr>{cells}</tr>"


def _render_cell(column: str, text: str) -> str:
    if column == SITE:
        return f'<th scope="row"><i class="{site_class(text)}"></i>{escape(text)}</th>'
    css_class = ""
    if WARNING in text:
        css_class = "warning"
    elif column == SPARSITY:
        css_class = "share"
    elif len(text) > LONG_TEXT:
        css_class = "long"
    return f"<td{_attribute('class', css_class)}>{escape(text)}</td>"


def _describe_conditions(conditions: Mapping[str, str]) -> str:
    return " · ".join(f"{escape(name)}: <b>{escape(text)}</b>" for name, text in conditions.items())
