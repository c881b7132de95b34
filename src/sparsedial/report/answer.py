"""The answer in words: what the numbers say, in a sentence or two per model and task."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparsedial.critical import BEYOND, LESS, MORE, UNCLEAR
from sparsedial.report.words import (
    estimate,
    goal,
    is_open,
    leading,
    number,
    plain,
    points,
    size,
    sort_rows,
    ungrouped,
    with_numbers,
)
from sparsedial.study.naming import AVERAGE, is_average

if TYPE_CHECKING:
    from sparsedial.study.results import Results


VERDICTS = {MORE: "tolerate more", LESS: "tolerate less", UNCLEAR: "no difference beyond the intervals"}


def answer(results: Results) -> list[str]:
    """One text per model, rule and task (only the task average, where there is one); at least one text.

    Names are as they came: whoever shows the text escapes it.
    """
    rows = with_numbers(sort_rows(results.critical), "value")
    said: list[tuple[str, pd.DataFrame]] = []
    if rows.empty:
        return ["No critical sparsity could be read off: no trial gave valid points."]
    for (model, rule, layers), group in rows.groupby(["model", "rule", "layers"], sort=False):
        averages = group[group["task"].map(is_average)]
        for task, sites in (ungrouped(group) if averages.empty else averages).groupby("task", sort=False):
            where = _where(task)
            by = f" under {plain(rule)}" if rows["rule"].nunique() > 1 else ""
            by += f" in layers {plain(layers)}" if layers != "all" else ""
            said.append((f"{plain(model)} {where}{by}: ", sites))
    if len(said) == 1:
        ((name, sites),) = said
        return [f"{name}{_sites(sites, f' while at least {goal(results.retain)} of the dense score stays')}"]
    each = [f"{name}{_sites(sites)}" for name, sites in said]
    start = f"What can be dropped while at least {goal(results.retain)} of the dense score stays:"
    return [start, *_best_sites(rows), *_sizes(results.trends), *each]


def _best_sites(rows: pd.DataFrame) -> list[str]:
    """Over several models: at which site most can be dropped, and in how many of them."""
    said = []
    for (rule, layers, task), group in leading(rows).groupby(["rule", "layers", "task"], sort=False):
        several = [sites for _, sites in group.groupby("model", sort=False) if len(sites) > 1]
        if len(several) < 2:
            continue
        best = [sites.loc[_largest(sites, "value")] for sites in several]
        count = Counter(str(row["site"]) for row in best)
        clear = Counter(
            str(row["site"])
            for row, sites in zip(best, several, strict=True)
            if not any(_overlaps(other, row) for _, other in sites.iterrows())
        )
        parts = [f"{plain(site)} in {n} (beyond the intervals in {clear[site]})" for site, n in count.items()]
        by = f" under {plain(rule)}" if rows["rule"].nunique() > 1 else ""
        by += f" in layers {plain(layers)}" if layers != "all" else ""
        said.append(f"Of {len(several)} models {_where(task)}{by}, the site that tolerates most is {_and(parts)}.")
    return said


def _sizes(trends: pd.DataFrame) -> list[str]:
    """For each family of several sizes, whether larger models tolerate more, as far as the intervals tell."""
    said: list[str] = []
    trends = sort_rows(leading(trends, "family"))
    if trends.empty:
        return said
    for (of, rule, layers, task), group in trends.groupby(["family", "rule", "layers", "task"], sort=False):
        by = f" under {plain(rule)}" if trends["rule"].nunique() > 1 else ""
        by += f" in layers {plain(layers)}" if layers != "all" else ""
        first = group.iloc[0]
        span = f"{size(first['smallest'])} to {size(first['largest'])}"
        parts = [
            f"{words} at {_and([_slope(row) for _, row in rows.iterrows()])}"
            for verdict, words in VERDICTS.items()
            if not (rows := group[group["verdict"] == verdict]).empty
        ]
        text = f"Larger models of {plain(of)} ({span}) {_where(task)}{by} (points for ten times the parameters): "
        text += "; ".join(parts)
        if any(number(value) for value in group["bounds"]):
            text += "; some of these critical sparsities, or the upper ends of their intervals, are lower bounds"
        said.append(f"{text}.")
    return said


def _slope(row: pd.Series[Any]) -> str:
    low, high = number(row["low"]), number(row["high"])
    spread = f", {points(low)} to {points(high)}" if low is not None and high is not None else ", no interval"
    return f"{plain(row['site'])} ({points(row['slope'])}{spread})"


def _where(task: object) -> str:
    name = plain(task)
    return "on average over the tasks" if name == AVERAGE else f"on {'the ' if is_average(name) else ''}{name}"


def _sites(rows: pd.DataFrame, condition: str = "") -> str:
    best = rows.loc[_largest(rows, "value")]
    dropped = f"{_said(best, 'value', 'low', 'high')} of the {plain(best['site'])} activations can be dropped"
    text = f"{dropped}{condition}"
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
    said = estimate(row[value], row[low], row[high], row["status"], is_open(row))
    return said.replace("≥ ", "at least ")


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
