"""The answer in words: what the numbers say, in a sentence or two per model and task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from sparsedial.critical import BEYOND
from sparsedial.report.words import AVERAGE, estimate, goal, number, plain, sort_rows, with_numbers

if TYPE_CHECKING:
    from sparsedial.study.results import Results


def answer(results: Results) -> list[str]:
    """One text per model, rule and task (only the task average, where there is one); at least one text.

    Names are as they came: whoever shows the text escapes it.
    """
    rows = with_numbers(sort_rows(results.critical), "value")
    said = []
    if rows.empty:
        return ["No critical sparsity could be read off: no trial gave valid points."]
    for (model, rule, layers), group in rows.groupby(["model", "rule", "layers"], sort=False):
        averages = group[group["task"] == AVERAGE]
        for task, sites in (group if averages.empty else averages).groupby("task", sort=False):
            where = "on average over its tasks" if task == AVERAGE else f"on {plain(task)}"
            by = f" under {plain(rule)}" if rows["rule"].nunique() > 1 else ""
            by += f" in layers {plain(layers)}" if layers != "all" else ""
            said.append(f"{plain(model)} {where}{by}: {_sites(sites, results.retain)}")
    return (
        said
        if len(said) == 1
        else [f"What can be dropped while {goal(results.retain)} of the dense score stays:", *said]
    )


def _sites(rows: pd.DataFrame, retain: float) -> str:
    best = rows.loc[_largest(rows, "value")]
    dropped = f"{_said(best, 'value', 'low', 'high')} of the {plain(best['site'])} activations can be dropped"
    text = f"{dropped} while at least {goal(retain)} of the dense score stays"
    if len(rows) > 1:
        rivals = [plain(row["site"]) for _, row in rows.iterrows() if _overlaps(row, best)]
        unsure = f", though within the intervals {_and(rivals)} could be as high" if rivals else ""
        text += f", the most of the {len(rows)} sites{unsure}"
    if any(number(value) is not None for value in rows["skippable"]):
        most = rows.loc[_largest(rows, "skippable")]
        share = _said(most, "skippable", "skippable_low", "skippable_high")
        if len(rows) > 1:
            text += f". A runtime gains most at {plain(most['site'])}: it can skip {share} of the FFN's multiplications"
        else:
            text += f". A runtime can then skip {share} of the FFN's multiplications"
    return f"{text}."


def _said(row: pd.Series[Any], value: str, low: str, high: str) -> str:
    return estimate(row[value], row[low], row[high], row["status"]).replace("≥", "at least")


def _largest(rows: pd.DataFrame, column: str) -> Any:
    return max(rows.index, key=lambda index: number(rows.at[index, column]) or -1.0)


def _overlaps(row: pd.Series[Any], best: pd.Series[Any]) -> bool:
    """Whether another site could be as high: its interval reaches the best one's, or it is only a lower bound."""
    if row.name == best.name:
        return False
    high, low = number(row["high"]), number(best["low"])
    return row["status"] == BEYOND or (high is not None and low is not None and high >= low)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
