"""The comparison of results with references: one row per value of a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import pandas as pd

from sparsedial.analysis.breakdowns import ANY_STATE
from sparsedial.analysis.estimates import AT_CHANCE, TOO_FEW_EXAMPLES, Estimate, finite_number, is_true
from sparsedial.analysis.labels import is_average
from sparsedial.analysis.references.records import (
    CRITICAL_SPARSITY,
    Reference,
    ReferenceValue,
)
from sparsedial.analysis.references.row_matching import (
    describe_other_tasks,
    find_model,
    is_same_task,
    is_whole_model,
    list_averaged_tasks,
)
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import unique_in_order
from sparsedial.analysis.row_selection import rows_with_numbers
from sparsedial.errors import SpecError
from sparsedial.study.requirement_text import describe_required, is_by_perplexity

INSIDE = "inside"
OVERLAPPING = "overlapping"
OUTSIDE = "outside"
NOT_MEASURED = "not measured"

COLUMNS = (
    "reference", "quantity", "reference_model", "reference_family", "model", "family", "parameters", "site",
    "vector", "task", "rule", "value", "low", "high", "status", "high_censored", "reference_value", "reference_low",
    "reference_high", "reference_is_lower_bound", "reference_high_censored", "is_exact", "source", "difference",
    "difference_low", "difference_high", "agreement", "note",
)  # fmt: skip
"""Columns of the table. They are described in docs/output-tables.md."""

MAX_LISTED = 6

Row = dict[str, Any]


def compare_with_references(
    results: Results, references: Sequence[Reference], include_missing: bool = False
) -> pd.DataFrame:
    """Compare results with references.

    Args:
        results: The results of one or several studies.
        references: The references.
        include_missing: Include the values of a reference for which there is no measurement here.

    Returns:
        One row per value of a reference and measured row that it is about, with the columns `COLUMNS`.

    Raises:
        SpecError: A reference was made for another share of the dense score, or none of its values has a measurement
            here and ``include_missing`` is False.
    """
    rows: list[Row] = []
    for reference in references:
        if reference.retain != results.retain and _has_critical_values(reference):
            raise SpecError(
                f"reference {reference.name!r}: critical sparsities that keep {describe_required(reference.retain)}, "
                f"those of the results keep {describe_required(results.retain)}. {_advise(results, reference)}"
            )
        compared = list(_compare(results, reference))
        if not include_missing:
            compared = list(filter(_is_measured, compared))
            if not compared:
                raise SpecError(_describe_no_match(results, reference))
        rows += compared
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _advise(results: Results, reference: Reference) -> str:
    if is_by_perplexity(results.retain):
        return "Compare the scores: `sparsedial report --criterion score`."
    return f"Use --retain {reference.retain:g}."


def _has_critical_values(reference: Reference) -> bool:
    return CRITICAL_SPARSITY in map(attrgetter("quantity"), reference.values)


def _is_measured(row: Row) -> bool:
    return bool(row["agreement"] != NOT_MEASURED)


def _compare(results: Results, reference: Reference) -> Iterator[Row]:
    for value in reference.values:
        if value.quantity == CRITICAL_SPARSITY:
            rows = list(_critical_rows(results.critical, reference, value))
        else:
            rows = list(_overlap_rows(results.step_overlap, reference, value))
        yield from rows or [_missing_row(reference, value)]


def _critical_rows(critical: pd.DataFrame, reference: Reference, value: ReferenceValue) -> Iterator[Row]:
    for row in critical.to_dict("records"):
        if not _is_about(reference, value, row):
            continue
        note = ""
        if is_average(str(row["task"])):
            note = describe_other_tasks(reference, value.averaged_tasks, list_averaged_tasks(critical, row))
        if row["status"] == AT_CHANCE:
            note = "the dense score here cannot be told from chance"
        if row["status"] == TOO_FEW_EXAMPLES:
            note = "at least two examples of each task are needed here"
        measured = Estimate(
            value=finite_number(row["sparsity"]),
            low=finite_number(row["low"]),
            high=finite_number(row["high"]),
            is_high_censored=is_true(row["high_censored"]),
        )
        label = {name: row[name] for name in ("model", "family", "parameters", "site", "task", "rule", "status")}
        numbers = _numbers(measured, value)
        yield {**_reference_columns(reference, value), **label, **numbers, "note": note}


def _overlap_rows(step_overlap: pd.DataFrame, reference: Reference, value: ReferenceValue) -> Iterator[Row]:
    """Yield one row per curve and vector: the mean over the steps, in which masked and revealed tokens are together."""
    known = rows_with_numbers(step_overlap, value.quantity)
    if known.empty:
        return
    means: dict[tuple[str, ...], list[Mapping[Any, Any]]] = {}
    for row in known[known["state"] == ANY_STATE].to_dict("records"):
        if _is_about(reference, value, row):
            key = tuple(str(row[name]) for name in ("model", "site", "vector", "task", "rule"))
            means.setdefault(key, []).append(row)
    for (model, site, vector, task, rule), rows in means.items():
        mean = float(np.mean(list(map(itemgetter(value.quantity), rows))))
        label = {"model": model, "site": site, "vector": vector, "task": task, "rule": rule}
        numbers = _numbers(Estimate(mean), value)
        yield {**_reference_columns(reference, value), **label, **numbers, "note": f"mean over {len(rows)} steps"}


def _is_about(reference: Reference, value: ReferenceValue, row: Mapping[Any, Any]) -> bool:
    """Return True if a measured row is about the model, site, rule and task of a value of the reference."""
    model = find_model(reference, str(row["model"]))
    if model is None or model.name != value.model or not is_whole_model(row.get("layers")) or row["rule"] != value.rule:
        return False
    is_same_site = value.site is None or row["site"] == value.site
    return is_same_site and (value.task is None or is_same_task(reference, value.task, str(row["task"])))


def _missing_row(reference: Reference, value: ReferenceValue) -> Row:
    model = reference.find_model(value.model)
    label = {"family": model.family, "parameters": model.parameters, "site": value.site, "task": value.task}
    columns = {**_reference_columns(reference, value), **label, "rule": value.rule}
    return {**columns, "agreement": NOT_MEASURED, "note": ""}


def _reference_columns(reference: Reference, value: ReferenceValue) -> Row:
    return {
        "reference": reference.name,
        "quantity": value.quantity,
        "reference_model": value.model,
        "reference_family": reference.find_model(value.model).family,
        "reference_value": value.value,
        "reference_low": value.low,
        "reference_high": value.high,
        "reference_is_lower_bound": value.is_lower_bound,
        "reference_high_censored": value.is_high_censored,
        "is_exact": value.is_exact,
        "source": value.source,
    }


def _numbers(measured: Estimate, value: ReferenceValue) -> Row:
    """Return the measured numbers, their difference from the reference, and whether the two agree."""
    lowest = measured.value if measured.low is None else measured.low
    highest = measured.value if measured.high is None else measured.high
    numbers: Row = {
        "value": measured.value,
        "low": measured.low,
        "high": measured.high,
        "high_censored": measured.is_high_censored,
        "agreement": NOT_MEASURED,
    }
    if lowest is None or highest is None or value.lowest is None or value.highest is None:
        return numbers
    if measured.value is not None and value.value is not None:
        numbers["difference"] = measured.value - value.value
    if not value.is_open:
        numbers["difference_low"] = lowest - value.highest
    numbers["difference_high"] = highest - value.lowest
    if measured.is_high_censored:
        highest = 1.0
        numbers["difference_high"] = None
    numbers["agreement"] = _judge(measured.value, (lowest, highest), value)
    return numbers


def _judge(estimate: float | None, interval: tuple[float, float], value: ReferenceValue) -> str:
    """Return whether the value of the reference lies in the interval measured here.

    A reference that is only a range or a lower bound is inside if the range holds the value measured here, or if the
    interval measured here holds the whole range.
    """
    low, high = interval
    lowest = value.lowest
    highest = value.highest
    if lowest is None or highest is None:
        return NOT_MEASURED
    is_range = value.value is None or value.is_lower_bound
    if value.value is not None and not is_range and low <= value.value <= high:
        return INSIDE
    if is_range:
        holds_estimate = estimate is not None and lowest <= estimate <= highest
        if holds_estimate or low <= lowest <= highest <= high:
            return INSIDE
    if low <= highest and lowest <= high:
        return OVERLAPPING
    return OUTSIDE


def _describe_no_match(results: Results, reference: Reference) -> str:
    models = [] if results.critical.empty else unique_in_order(results.critical["model"])
    known = list(map(attrgetter("name"), reference.models))
    return (
        f"reference {reference.name!r}: none of its values has a measurement here. It has values for "
        f"{_list(known)}; measured are {_list(models)}. A model, site, task and rule must be the same in both. Use "
        "--include-missing to list its values anyway."
    )


def _list(names: Sequence[str]) -> str:
    listed = ", ".join(names[:MAX_LISTED]) or "none"
    if len(names) > MAX_LISTED:
        listed += f" and {len(names) - MAX_LISTED} more"
    return listed
