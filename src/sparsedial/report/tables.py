"""The report's further tables, in words: size trends, outlier experts, generated texts; only what says something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparsedial.report.words import number, percent, plain, points, short, size, sort_rows
from sparsedial.study.profiles import FEWEST, OUTLIER, SEEN

if TYPE_CHECKING:
    from sparsedial.study.results import Results

MOST = 20  # outliers that are listed; experts.csv has them all


@dataclass(frozen=True)
class Listed:
    """A table in words, ready to be escaped.

    Attributes:
        heading: of its section. about: what it shows. columns: the headings. rows: their texts.
        groups: for each row, what it has in common with its neighbours (said once above them); may be empty.
    """

    heading: str
    about: str
    columns: list[str]
    rows: list[list[str]]
    groups: list[str]


def tables(results: Results) -> Iterator[Listed]:
    """The tables that these results have something to say in."""
    for make, frame in ((_trends, results.trends), (_outliers, results.experts), (_generated, results.generated)):
        if not frame.empty and (table := make(sort_rows(frame))).rows:
            yield table


def _trends(frame: pd.DataFrame) -> Listed:
    rows = []
    for _, row in frame.iterrows():
        slope = f"{points(row['slope'])} points"
        if number(row["low"]) is not None and number(row["high"]) is not None:
            slope += f" ({points(row['low'])} to {points(row['high'])})"
        bounds = number(row["bounds"])
        said = f"larger models tolerate {row['verdict']}" if row["verdict"] != "unclear" else "not clear"
        rows.append([
            plain(row["site"]), f"{row['models']} ({size(row['smallest'])} to {size(row['largest'])})", slope,
            f"{row['rising']} of {row['steps']}", said + (f"; {short(bounds)} lower bounds" if bounds else ""),
        ])  # fmt: skip
    about = (
        "The slope of critical sparsity over log10(parameters), for ten times the parameters, with the 95% interval "
        "that resampling the examples gives; how far models scatter about the line is not in it."
    )
    return Listed(
        "Model size",
        about,
        ["Site", "Models", "Ten times the size (95%)", "Rises at", "What it says"],
        rows,
        _groups(frame, "family", "rule", "layers", "task"),
    )


def _outliers(frame: pd.DataFrame) -> Listed:
    far = frame[frame["outlier"].map(number) == 1.0]
    far = far.loc[far["robust_z"].abs().sort_values(ascending=False).index]
    shown = sort_rows(far.head(MOST))
    rows = [
        [
            _vector(row), plain(row["phase"]), short(row["layer"]), short(row["expert"]), percent(row["sparsity"]),
            f"{row['robust_z']:+.1f}".replace("-", "−"), short(row["tokens"]), percent(row["share"]),
            percent(row["weight"]),
        ]
        for _, row in shown.iterrows()
    ]  # fmt: skip
    about = (
        f"Experts whose sparsity lies more than {OUTLIER:g} robust standard deviations (1.4826 times the median "
        f"absolute deviation) from the median of their layer's experts, where at least {FEWEST} saw {SEEN} tokens "
        f"or more: "
        f"{len(far)} of {len(frame)}"
        + (f", of which the {MOST} furthest are listed (the rest are in experts.csv)." if len(far) > MOST else ".")
    )
    columns = ["Vector", "Phase", "Layer", "Expert", "Sparsity", "Robust z", "Tokens", "Of the layer's", "Weight"]
    return Listed("Outlier experts", about, columns, rows, _groups(shown, "model", "rule", "layers", "task"))


def _generated(frame: pd.DataFrame) -> Listed:
    rows = [
        [
            "dense" if number(row["p"]) is None else short(row["p"]), short(row["generated_tokens"]),
            percent(row["limit_hit"]), percent(row["prefill"]), percent(row["generation"]),
        ]
        for _, row in frame.iterrows()
    ]  # fmt: skip
    about = "Mean length of the generated texts and how often it hit the limit, with the sparsity in each phase."
    columns = ["p", "Tokens generated", "Limit hit", "Sparsity in prefill", "Sparsity in generation"]
    return Listed("Generated texts", about, columns, rows, _groups(frame, "model", "task", "site", "rule", "layers"))


def _groups(frame: pd.DataFrame, *names: str) -> list[str]:
    """What each row belongs to; names that are the same in all rows are said too, where they say something."""
    return [
        " · ".join(
            f"layers {plain(row[name])}" if name == "layers" else plain(row[name])
            for name in names
            if name not in ("rule", "layers") or frame[name].nunique() > 1
        )
        for _, row in frame.iterrows()
    ]


def _vector(row: pd.Series[Any]) -> str:
    same = row["vector"] == row["site"]
    return plain(row["site"]) if same else f"{plain(row['site'])}: {plain(row['vector'])}"
