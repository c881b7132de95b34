"""Tables of generated texts: what they cost at each sparsity, and their segments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows
from sparsedial.report.formatting import MISSING, format_number, format_percent, sanitize_text
from sparsedial.report.supplementary_tables import DetailTable, group_texts

Row = Mapping[Any, Any]

GROUP_COLUMNS = ("model", "task", "site", "rule", "layers")
NET_WORK = "Net work"
DEFINITION = (
    "Net work is the FFN work in decoding relative to the dense model: (1 − skippable share) × tokens ÷ tokens of the "
    "dense model. Above 1, sparsity costs more than it saves. Work on prompts is listed apart, and attention is not "
    "counted."
)


def make_generation_tables(results: Results) -> Iterator[DetailTable]:
    """Make the tables for which there are results.

    Args:
        results: The results of one or several studies.

    Yields:
        DetailTable: The cost of the texts, then their segments.
    """
    if not results.cost.empty:
        yield _make_cost_table(sort_rows(results.cost))
    if not results.segments.empty and results.segments["segment"].nunique() > 2:
        yield _make_segment_table(sort_rows(results.segments))


def render_terminal_costs(results: Results) -> RenderableType | None:
    """Render the cost of generated texts for the terminal. It fits into 60 columns.

    Args:
        results: The results of one or several studies.

    Returns:
        A table for `rich.console.Console.print`, or None if no text was generated.
    """
    if results.cost.empty:
        return None
    frame = sort_rows(results.cost)
    parts: list[RenderableType] = [Text("\nCost of generated texts")]
    previous = None
    table = Table.grid()
    for group, row in zip(group_texts(frame, *GROUP_COLUMNS), frame.to_dict("records"), strict=True):
        if group != previous:
            table = _make_terminal_grid()
            parts += [Text(group, style="italic"), table]
            previous = group
        numbers = (format_number(row["generated_tokens"]), format_percent(row["limit_hit"]), _format_work(row))
        cells = (_name_point(row), format_percent(row["sparsity"]), _format_score(row["score"]), *numbers)
        table.add_row(*map(Text, cells))
    return Group(*parts, Text(DEFINITION, style="dim"))


def _make_terminal_grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    headings = ("p", "Sparsity", "Score", "Tokens", "Limit", NET_WORK)
    for _ in headings:
        grid.add_column(overflow="fold")
    grid.add_row(*(Text(heading, style="bold") for heading in headings))
    return grid


def _make_cost_table(frame: pd.DataFrame) -> DetailTable:
    return DetailTable(
        heading="Cost of generated texts",
        description=(
            f"{DEFINITION} Its 95% interval is a bootstrap over the examples, which both models have answered. The "
            "score over finished texts is that of the examples whose text did not reach the length limit, with the "
            "score of the dense model on the same examples."
        ),
        columns=(
            "p", "Sparsity", "Score", "Score, finished texts (dense)", "Mean tokens", "Limit reached",
            "Skippable in prefill", "Skippable in decoding", f"{NET_WORK} (95% CI)",
        ),
        rows=list(map(_cost_row, frame.to_dict("records"))),
        groups=group_texts(frame, *GROUP_COLUMNS),
    )  # fmt: skip


def _cost_row(row: Row) -> list[str]:
    finished = MISSING
    if finite_number(row["score_finished"]) is not None:
        finished = f"{_format_score(row['score_finished'])} ({_format_score(row['dense_score_finished'])})"
        finished += f", {format_number(row['finished'])} of {format_number(row['examples'])}"
    return [
        _name_point(row),
        format_percent(row["sparsity"]),
        _format_score(row["score"]),
        finished,
        format_number(row["generated_tokens"]),
        format_percent(row["limit_hit"]),
        format_percent(row["skippable_prefill"]),
        format_percent(row["skippable_decoding"]),
        _format_work(row),
    ]


def _make_segment_table(frame: pd.DataFrame) -> DetailTable:
    return DetailTable(
        heading="Thinking and answer",
        description=(
            "Mean number of tokens and sparsity of the prompt (prefill), of the generated text, and of its two parts. "
            "Thinking goes from the start marker to the end marker, both included. Limit reached: share of the texts "
            "that reached the length limit in this part. Not closed: share of the texts that ended while the model was "
            "thinking."
        ),
        columns=("p", "Part", "Mean tokens", "Sparsity", "Limit reached", "Not closed"),
        rows=list(map(_segment_row, frame.to_dict("records"))),
        groups=group_texts(frame, *GROUP_COLUMNS),
    )


def _segment_row(row: Row) -> list[str]:
    return [
        _name_point(row),
        sanitize_text(row["segment"]),
        format_number(row["tokens"]),
        format_percent(row["sparsity"]),
        format_percent(row["limit_hit"]),
        format_percent(row["unclosed"]),
    ]


def _name_point(row: Row) -> str:
    return "dense" if finite_number(row["p"]) is None else format_number(row["p"])


def _format_score(value: object) -> str:
    number = finite_number(value)
    return MISSING if number is None else f"{number:.3f}"


def _format_work(row: Row) -> str:
    number = finite_number(row["net_work"])
    if number is None:
        return MISSING
    low = finite_number(row["net_work_low"])
    high = finite_number(row["net_work_high"])
    if low is None or high is None:
        return f"{number:.2f}"
    return f"{number:.2f} ({low:.2f}–{high:.2f})"
