"""How names and numbers are said: the same words in the terminal, on the page and in the figures."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

import pandas as pd

from sparsedial.critical import BEYOND, CROSSED, NOT_REACHED
from sparsedial.ffn import SITES
from sparsedial.study.naming import is_average
from sparsedial.tasks.self_prediction import SelfPrediction

NOTHING = "–"


def plain(value: object) -> str:
    r"""Text on one line in which nothing acts: white space becomes a space, control characters are spelled out.

    Terminal escapes, text-direction overrides, lone surrogates and what XML cannot hold are all of them.

    >>> plain("a\x1b[31mb\nc")
    'a\\x1b[31mb c'
    """
    return "".join(map(_plain_character, str(value)))


def number(value: object) -> float | None:
    """A finite float, or None for whatever is missing: None, NaN, ``<NA>``, infinities, text.

    >>> number("0.5"), number(float("nan")), number(pd.NA)
    (0.5, None, None)
    """
    try:
        found = float(value)  # type: ignore[arg-type]  # what is no number raises, and is caught
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def percent(value: object) -> str:
    """A fraction as a percentage with one decimal.

    >>> percent(0.391), percent(None)
    ('39.1%', '–')
    """
    found = number(value)
    return NOTHING if found is None else f"{100 * found:.1f}%"


def interval(low: object, high: object, is_open: bool = False) -> str:
    """A 95% interval of fractions; empty where it is not known; ``≥`` where its upper end is a lower bound.

    >>> interval(0.36, 0.415), interval(0.36, 0.415, True), interval(None, 0.4)
    ('36.0–41.5%', '36.0–≥41.5%', '')
    """
    if number(low) is None or number(high) is None:
        return ""
    return f"{percent(low)[:-1]}–{'≥' if is_open else ''}{percent(high)}"


def estimate(value: object, low: object, high: object, status: object = CROSSED, is_open: bool = False) -> str:
    """A fraction with its interval; ``≥`` where it is a lower bound.

    >>> estimate(0.39, 0.37, 0.41), estimate(0.4, None, None, "beyond")
    ('39.0% (37.0–41.0%)', '≥ 40.0%')
    """
    if number(value) is None:
        return NOTHING
    spread = interval(low, high, is_open)
    return f"{'≥ ' if status == BEYOND else ''}{percent(value)}{f' ({spread})' if spread else ''}"


def short(value: object) -> str:
    """A number with up to four digits, an integer with its thousands.

    >>> short(0.97315), short(1200), short(pd.NA)
    ('0.9731', '1,200', '–')
    """
    found = number(value)
    if found is None:
        return NOTHING
    return f"{int(found):,}" if found.is_integer() and abs(found) >= 10 else f"{found:.4g}"


def goal(retain: float) -> str:
    """``retain`` in words: ``99%``."""
    return f"{100 * retain:.4g}%"


def meaning(row: pd.Series[Any], retain: float) -> str:
    """What a row of ``critical`` says beyond its number: its status, first crossing and width, in words."""
    status, kept = row["status"], goal(retain)
    said = {
        CROSSED: f"crosses {kept}",
        BEYOND: f"beyond the last point, which still keeps {kept}: a lower bound",
        NOT_REACHED: f"not reached: no measured point keeps {kept}; read between dense and the first one",
    }.get(status, plain(status))
    if number(row["value"]) is None:
        return "not known"
    parts = [said]
    first = percent(row["first_crossing"])
    if first not in (NOTHING, percent(row["value"])):
        parts.append(f"first falls below {kept} at {first}")
    if is_wide(row):
        parts.append(f"⚠ the interval {'may span' if is_open(row) else 'spans'} more than 10 points")
    examples, needed = number(row["examples"]), number(row["examples_needed"])
    if needed is not None and (examples is None or needed > examples):
        of = " over all its tasks" if str(row.get("metric")).startswith("mean of ") else ""
        parts.append(f"±2 points would take {'at least ' if is_open(row) else ''}{short(needed)} examples{of}")
    elif is_open(row):
        parts.append("±2 points would take points of higher sparsity")
    return "; ".join(parts)


def is_open(row: pd.Series[Any]) -> bool:
    """Whether the interval's upper end is but a lower bound."""
    return number(row.get("open")) == 1.0


def is_wide(row: pd.Series[Any]) -> bool:
    """Whether the interval is marked as spanning more than 10 points, or as having no upper end that is known."""
    return number(row["wide"]) == 1.0


def size(parameters: object) -> str:
    """A number of parameters; empty where it is not known.

    >>> size(134_515_008), size(7_240_000_000), size(None)
    ('134.5M', '7.2B', '')
    """
    found = number(parameters)
    if not found:
        return ""
    unit, name = next((unit, name) for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1, "")) if found >= unit)
    return f"{found / unit:.1f}{name}" if name else f"{found:.0f}"


def points(value: object) -> str:
    """A difference of fractions in percentage points, with its sign.

    >>> points(0.081), points(-0.02), points(None)
    ('+8.1', '−2.0', '–')
    """
    found = number(value)
    return NOTHING if found is None else f"{100 * found:+.1f}".replace("-", "−")


def which_layers(layers: object) -> str:
    """A choice of layers in words: runs of neighbours are joined; anything but a list is all of them.

    >>> which_layers([0, 1, 2, 7]), which_layers(None)
    ('0–2, 7', 'all')
    """
    if not isinstance(layers, list | tuple):
        return "all"
    runs: list[list[int]] = []
    for layer in sorted(map(int, layers)):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def ordered(values: Iterable[object], first: Iterable[str] = ()) -> list[str]:
    """The distinct values: those in ``first`` in that order, then the others as they come.

    >>> ordered(["gate", "mine", "input"], SITES)
    ['input', 'gate', 'mine']
    """
    seen = list(dict.fromkeys(str(value) for value in values))
    return [name for name in first if name in seen] + [name for name in seen if name not in set(first)]


def sort_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by model, rule and layers (put in words) as they come, then the average and the tasks, then the sites."""
    if frame.empty:
        return frame
    averages = [task for task in ordered(frame["task"]) if is_average(task)]
    orders = {"family": (), "model": (), "rule": (), "layers": (), "task": averages, "site": SITES}
    chosen = [which_layers(value) for value in frame["layers"]] if "layers" in frame else "all"
    frame = frame.reset_index(drop=True).assign(layers=chosen)
    keys = {name: _ranks(frame[name], first) for name, first in orders.items() if name in frame}
    return frame.loc[pd.DataFrame(keys, index=frame.index).sort_values(list(keys), kind="stable").index]


def ungrouped(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows but for the tasks that a group's row is the average of."""
    return frame[frame["group"].isna()] if "group" in frame else frame


def leading(frame: pd.DataFrame, of: str = "model") -> pd.DataFrame:
    """The rows to compare models by: the task averages and self-prediction; each task of those without an average.

    A task that a group is averaged over is in that.
    """
    if frame.empty:
        return frame
    frame = ungrouped(frame)
    averaged = set(frame[of][frame["task"].map(is_average)])
    single = ~frame[of].isin(averaged) | (frame["task"] == SelfPrediction.name)
    return frame[frame["task"].map(is_average) | single]


def with_numbers(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows in which all these columns hold finite numbers."""
    return frame if frame.empty else frame[frame[list(columns)].map(number).notna().all(axis=1)]


def _ranks(column: pd.Series[Any], first: Iterable[str]) -> list[int]:
    rank = {name: index for index, name in enumerate(ordered(column, first))}
    return [rank[str(value)] for value in column]


def _plain_character(character: str) -> str:
    if character in "\t\n\r\x0b\x0c\x85\u2028\u2029":
        return " "
    if unicodedata.category(character)[0] != "C":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
