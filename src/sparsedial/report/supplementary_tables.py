"""Further tables of the page as text: size trends, outlier experts and generated texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.expert_outliers import MIN_EXPERTS_FOR_OUTLIERS, MIN_TOKENS_FOR_OUTLIERS, OUTLIER_Z
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows
from sparsedial.analysis.shown_experts import MAX_LISTED_OUTLIERS, select_listed_outliers
from sparsedial.report.formatting import (
    format_number,
    format_parameters,
    format_percent,
    format_points,
    format_signed,
    sanitize_text,
)

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class DetailTable:
    """A table as text without control characters. It still has to be escaped for HTML.

    Attributes:
        heading: Heading of its section.
        description: Description of the table, in complete sentences.
        columns: Headings of the columns.
        rows: The text of each row.
        groups: Heading of the group of each row. It is shown once, above the rows of the group. May be empty.
    """

    heading: str
    description: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    groups: list[str]


def make_detail_tables(results: Results) -> list[DetailTable]:
    """Make the tables for which there are results.

    Args:
        results: The results of one or several studies.

    Returns:
        The tables that have rows.
    """
    tables = []
    if not results.trends.empty:
        tables.append(_make_size_trends(sort_rows(results.trends)))
    if not results.experts.empty:
        tables.append(_make_outliers(results.experts))
    if not results.generated.empty:
        tables.append(_make_generated_texts(sort_rows(results.generated)))
    return [table for table in tables if table.rows]


def _make_size_trends(trends: pd.DataFrame) -> DetailTable:
    return DetailTable(
        heading="Model size",
        description=(
            "Change of critical sparsity for ten times the parameters, from a linear fit over log10(parameters). The "
            "95% interval combines those of the models, or is that of the difference of two models. It does not "
            "include the scatter of the models about the line. A rising step is one from a model size to the next "
            "larger one at which critical sparsity rises."
        ),
        columns=("Site", "Models", "Slope (95% CI)", "Rising steps", "Interpretation"),
        rows=list(map(_size_trend_row, trends.to_dict("records"))),
        groups=group_texts(trends, "family", "rule", "layers", "task"),
    )


def _size_trend_row(row: Row) -> list[str]:
    slope = f"{format_points(row['slope'])} points"
    if finite_number(row["low"]) is not None and finite_number(row["high"]) is not None:
        slope += f" ({format_points(row['low'])} to {format_points(row['high'])})"
    interpretation = "no clear trend"
    if row["verdict"] != "unclear":
        interpretation = f"larger models tolerate {row['verdict']} sparsity"
    if finite_number(row["censored"]):
        interpretation += f"; lower bounds: {format_number(row['censored'])}"
    return [
        sanitize_text(row["site"]),
        f"{row['models']} ({format_parameters(row['smallest'])} to {format_parameters(row['largest'])})",
        slope,
        f"{row['rising']} of {row['steps']}",
        interpretation,
    ]


def _make_outliers(experts: pd.DataFrame) -> DetailTable:
    outliers = select_listed_outliers(experts)
    description = (
        f"Experts whose sparsity lies more than {OUTLIER_Z:g} robust standard deviations (1.4826 times the median "
        f"absolute deviation) from the median of their layer's experts. A layer is included if at least "
        f"{MIN_EXPERTS_FOR_OUTLIERS} of its experts received {MIN_TOKENS_FOR_OUTLIERS} tokens or more. "
        f"Outliers: {outliers.outlier_count} of {outliers.expert_count} experts, counted once per vector and phase."
    )
    if outliers.outlier_count > MAX_LISTED_OUTLIERS:
        description += f" The {MAX_LISTED_OUTLIERS} furthest from their median are listed. All are in experts.csv."
    return DetailTable(
        heading="Outlier experts",
        description=description,
        columns=(
            "Vector", "Phase", "Layer", "Expert", "Sparsity", "Robust z", "Tokens",
            "Share of layer's tokens", "Share of weight",
        ),
        rows=list(map(_outlier_row, outliers.rows.to_dict("records"))),
        groups=group_texts(outliers.rows, "model", "rule", "layers", "task"),
    )  # fmt: skip


def _outlier_row(row: Row) -> list[str]:
    vector = sanitize_text(row["vector"])
    if row["vector"] != row["site"]:
        vector = f"{sanitize_text(row['site'])}: {vector}"
    return [
        vector,
        sanitize_text(row["phase"]),
        format_number(row["layer"]),
        format_number(row["expert"]),
        format_percent(row["sparsity"]),
        format_signed(row["robust_z"]),
        format_number(row["tokens"]),
        format_percent(row["share"]),
        format_percent(row["weight"]),
    ]


def _make_generated_texts(generated: pd.DataFrame) -> DetailTable:
    return DetailTable(
        heading="Generated texts",
        description=(
            "Mean length of the generated texts, share of the texts that reached the length limit, and sparsity in the "
            "prefill and generation phases."
        ),
        columns=("p", "Mean tokens", "Limit reached", "Sparsity in prefill", "Sparsity in generation"),
        rows=list(map(_generated_text_row, generated.to_dict("records"))),
        groups=group_texts(generated, "model", "task", "site", "rule", "layers"),
    )


def _generated_text_row(row: Row) -> list[str]:
    return [
        "dense" if finite_number(row["p"]) is None else format_number(row["p"]),
        format_number(row["generated_tokens"]),
        format_percent(row["limit_hit"]),
        format_percent(row["prefill"]),
        format_percent(row["generation"]),
    ]


def group_texts(frame: pd.DataFrame, *columns: str) -> list[str]:
    """Return the heading of the group of each row. Rule and layers are left out if they are equal in all rows.

    Args:
        frame: The rows.
        *columns: Columns that are named in the heading.
    """
    shown = [name for name in columns if name not in ("rule", "layers") or frame[name].nunique() > 1]
    groups = []
    for row in frame.to_dict("records"):
        texts = []
        for name in shown:
            prefix = "layers " if name == "layers" else ""
            texts.append(f"{prefix}{sanitize_text(row[name])}")
        groups.append(" · ".join(texts))
    return groups
