"""The order of rows, sites and tasks that all tables and charts of a report share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from sparsedial.analysis.labels import is_average
from sparsedial.ffn.feed_forward import BUILTIN_SITES


def unique_in_order(values: Iterable[object], first: Iterable[str] = ()) -> list[str]:
    """Return the distinct values as text, with preferred values first.

    Args:
        values: The values. Those that are not preferred are returned in this order.
        first: Preferred values, in the order in which they are returned. Those that do not occur are left out.

    Returns:
        Every distinct value once.

    Example:
        >>> unique_in_order(["gate", "mine", "input"], BUILTIN_SITES)
        ['input', 'gate', 'mine']
    """
    preferred = list(first)
    names = list(dict.fromkeys(map(str, values)))
    preferred_names = [name for name in preferred if name in names]
    return list(dict.fromkeys([*preferred_names, *names]))


def layer_ranges(layers: object) -> str:
    """Return a selection of layers as text, with runs of neighbours joined.

    Args:
        layers: Indices of the layers. A text is returned as it is. Any other value means all layers.

    Returns:
        The ranges, or ``all``.

    Example:
        >>> layer_ranges([0, 1, 2, 7]), layer_ranges("0–2, 7"), layer_ranges(None)
        ('0–2, 7', '0–2, 7', 'all')
    """
    if isinstance(layers, str):
        return layers
    if not isinstance(layers, list | tuple):
        return "all"
    runs: list[list[int]] = []
    for layer in sorted(map(int, layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(map(_run_text, runs))


def sort_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort a table into the order of the report.

    Families, models, rules and layers keep their order. Within them, task averages come before the tasks, and the
    sites have the order of `BUILTIN_SITES`.

    Args:
        frame: A table with a column ``task``, and any of ``family``, ``model``, ``rule``, ``layers`` and ``site``.

    Returns:
        The sorted rows with a new index. The column ``layers`` holds text (see `layer_ranges`).
    """
    if frame.empty:
        return frame
    averages = filter(is_average, unique_in_order(frame["task"]))
    preferences: dict[str, Iterable[str]] = {
        "family": (),
        "model": (),
        "rule": (),
        "layers": (),
        "task": averages,
        "site": BUILTIN_SITES,
    }
    frame = frame.reset_index(drop=True)
    if "layers" in frame:
        frame = frame.assign(layers=list(map(layer_ranges, frame["layers"])))
    else:
        frame = frame.assign(layers="all")
    ranks = {name: _ranks(frame[name], first) for name, first in preferences.items() if name in frame}
    order = pd.DataFrame(ranks, index=frame.index).sort_values(list(ranks), kind="stable")
    return frame.loc[order.index]


def _run_text(run: list[int]) -> str:
    if len(run) == 1:
        return str(run[0])
    return f"{run[0]}–{run[-1]}"


def _ranks(column: pd.Series[Any], first: Iterable[str]) -> pd.Series[Any]:
    order = unique_in_order(column, first)
    return column.map(str).map(order.index)
