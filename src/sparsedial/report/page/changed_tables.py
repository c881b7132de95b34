"""Tables of what changes near the critical sparsity: answers to examples, and predicted tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from sparsedial.analysis.changed_answers import EXAMPLES, MAX_LISTED_EXAMPLES, MAX_LISTED_TOKENS, TOKENS
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows
from sparsedial.report.formatting import MISSING, format_number, format_percent, sanitize_text
from sparsedial.report.supplementary_tables import DetailTable, group_texts

Row = Mapping[Any, Any]

GROUP_COLUMNS = ("model", "rule", "layers", "task", "site")
LINE_BREAK = "⏎"
SPACE = "␣"


def make_changed_tables(results: Results) -> Iterator[DetailTable]:
    """Make the tables of changed answers for which there are results.

    Args:
        results: The results of one or several studies.

    Yields:
        DetailTable: The numbers of changed answers, the examples, and the tokens.
    """
    if not results.changes.empty:
        yield _make_counts(sort_rows(results.changes))
    if not results.changed_examples.empty:
        yield _make_examples(sort_rows(results.changed_examples))
    if not results.changed_tokens.empty:
        yield _make_tokens(sort_rows(results.changed_tokens))


def _make_counts(frame: pd.DataFrame) -> DetailTable:
    rows = []
    for row in frame.to_dict("records"):
        what = {EXAMPLES: "examples", TOKENS: "predicted tokens"}[row["kind"]]
        changed = f"{format_number(row['changed'])} of {format_number(row['compared'])} {what}"
        rows.append(
            [
                sanitize_text(row["site"]),
                format_number(row["p"]),
                format_percent(row["sparsity"]),
                f"{changed} ({format_percent(row['changed'] / row['compared'])})",
                format_number(row["lost"]),
                format_number(row["gained"]),
            ]
        )
    return DetailTable(
        heading="changed-answers",
        description=(
            "Answers of the sparse model that differ from those of the dense model, at the measured p nearest to the "
            "critical sparsity. An example is lost if its score falls, and gained if it rises."
        ),
        columns=("Site", "p", "Sparsity", "Changed", "Lost", "Gained"),
        rows=rows,
        groups=group_texts(frame, "model", "rule", "layers", "task"),
    )


def _make_examples(frame: pd.DataFrame) -> DetailTable:
    rows = []
    for row in frame.to_dict("records"):
        score = f"{format_number(row['dense_score'])} → {format_number(row['sparse_score'])}"
        rows.append(
            [
                sanitize_text(row["id"]),
                _show_text(row["question"]),
                _show_text(row["dense_answer"]),
                _show_text(row["sparse_answer"]),
                score,
            ]
        )
    return DetailTable(
        heading="changed-examples",
        description=(
            f"Examples whose answer changed, at most {MAX_LISTED_EXAMPLES} per curve. Those that lose most come first. "
            "The question is the end of the prompt. It is known if the tokenizer of the model was on the machine that "
            "made this page."
        ),
        columns=("ID", "Question", "Dense answer", "Sparse answer", "Score"),
        rows=rows,
        groups=group_texts(frame, *GROUP_COLUMNS),
    )


def _make_tokens(frame: pd.DataFrame) -> DetailTable:
    rows = []
    for row in frame.to_dict("records"):
        rows.append(
            [
                _show_token(row["token"], row["token_id"]),
                f"{format_number(row['changed'])} of {format_number(row['positions'])}",
                _show_token(row["replacement"], row["replacement_id"]),
                format_number(row["replacement_count"]),
            ]
        )
    return DetailTable(
        heading="changed-tokens",
        description=(
            f"First choices of the dense model that changed most often, at most {MAX_LISTED_TOKENS} per curve. "
            f"{SPACE} is a space and {LINE_BREAK} a line break."
        ),
        columns=("Token of the dense model", "Changed", "Most often to", "Times"),
        rows=rows,
        groups=group_texts(frame, *GROUP_COLUMNS),
    )


def _show_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        return MISSING
    return sanitize_text(value.replace("\n", f" {LINE_BREAK} "))


def _show_token(value: object, token_id: object) -> str:
    if not isinstance(value, str):
        return f"token {token_id}"
    return sanitize_text(value.replace(" ", SPACE).replace("\n", LINE_BREAK)) or f"token {token_id}"
