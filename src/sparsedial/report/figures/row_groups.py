"""Groups and columns of the rows that figures draw, and the tables of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from sparsedial.report.charts.common import Row, distinct_values
from sparsedial.report.supplementary_tables import DetailTable


def group_rows(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Return the rows by the value of a column, in the order of their first row.

    Args:
        rows: The rows.
        column: Name of the column.

    Example:
        >>> group_rows([{"site": "up", "p": 1}, {"site": "gate", "p": 2}, {"site": "up", "p": 3}], "site")
        {'up': [{'site': 'up', 'p': 1}, {'site': 'up', 'p': 3}], 'gate': [{'site': 'gate', 'p': 2}]}

    Returns:
        A list of rows by value.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def column_values(rows: Iterable[Row], column: str) -> list[Any]:
    """Return the values of a column.

    Args:
        rows: The rows.
        column: Name of the column.

    Returns:
        One value per row.
    """
    return list(map(itemgetter(column), rows))


def known_numbers(rows: Iterable[Row], column: str) -> list[float]:
    """Return the numbers of a column that are not missing.

    Args:
        rows: The rows.
        column: Name of the column.

    Returns:
        At most one number per row.
    """
    return [value for value in column_values(rows, column) if value is not None]


def distinct_numbers(rows: Iterable[Row], column: str) -> list[float]:
    """Return the distinct numbers of a column in ascending order.

    Args:
        rows: The rows.
        column: Name of the column.

    Returns:
        The numbers.
    """
    return sorted(set(column_values(rows, column)))


def sort_by(rows: Iterable[Row], column: str) -> list[Row]:
    """Return rows in ascending order of a column.

    Args:
        rows: The rows.
        column: Name of the column.

    Returns:
        The sorted rows.
    """
    return sorted(rows, key=itemgetter(column))


def model_suffix(rows: Sequence[Row]) -> str:
    """Return the model for the heading of a figure, if there is only one.

    Args:
        rows: The rows of the figure.

    Returns:
        The text to append to the heading. Empty if there are several models.
    """
    models = distinct_values(rows, "model")
    if len(models) != 1:
        return ""
    return f" · {models[0]}"


class NumbersTable:
    """The numbers of a figure as a table, which is filled row by row.

    Args:
        *columns: Headings of the columns.
    """

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[list[str]] = []
        self._groups: list[str] = []

    def add(self, group: str, *cells: str) -> None:
        """Add a row.

        Args:
            group: Heading of the group of the row.
            *cells: Text of each cell.
        """
        self._rows.append(list(cells))
        self._groups.append(group)

    def to_table(self) -> DetailTable:
        """Return the table."""
        return DetailTable("", "", self._columns, self._rows, self._groups)
