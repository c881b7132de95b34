"""Numbers of layers and experts at every measured p, which the page holds and its script draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import layer_ranges
from sparsedial.report.formatting import sanitize_text

LABELS = ("model", "rule", "layers", "task", "site", "vector", "phase")
Key = tuple[str, ...]


@dataclass
class Profile:
    """The numbers of one curve, vector and phase.

    Attributes:
        labels: The conditions, by the names in `LABELS`.
        index: Position in the list of its kind.
        layer: Indices of the layers.
        p: The measured values of p.
        values: The lists of numbers at each value of p, by the name of the list.
        shown: The value of p that a figure shows at first. None if no figure shows the profile.
    """

    labels: dict[str, str]
    index: int
    layer: list[int]
    p: list[float] = field(default_factory=list)
    values: dict[str, list[list[float]]] = field(default_factory=dict)
    shown: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the page."""
        rounded = {name: list(map(_round_all, lists)) for name, lists in self.values.items()}
        return {**self.labels, "layer": self.layer, "p": self.p, "shown": self.shown, **rounded}


class ProfileTable:
    """The profiles of the layers, or of the experts, of all curves.

    Args:
        rows: Rows with the columns of `LABELS`, ``p``, ``layer`` and the lists.
        names: Names of the columns with lists of numbers.
        shown_rows: Rows with the columns of `LABELS` and the value of p that figures show at first.
    """

    def __init__(
        self, rows: list[Mapping[Any, Any]], names: tuple[str, ...], shown_rows: list[Mapping[Any, Any]]
    ) -> None:
        self._by_key: dict[Key, Profile] = {}
        for row in rows:
            key = profile_key(row)
            if key not in self._by_key:
                labels = dict(zip(LABELS, key, strict=True))
                self._by_key[key] = Profile(labels, len(self._by_key), list(map(int, row["layer"])))
            profile = self._by_key[key]
            p = finite_number(row["p"])
            if p is None or len(row["layer"]) != len(profile.layer):
                continue
            profile.p.append(p)
            for name in names:
                profile.values.setdefault(name, []).append(list(map(float, row[name])))
        for row in shown_rows:
            shown_profile = self.find(row)
            if shown_profile is not None:
                shown_profile.shown = finite_number(row["p"])

    def find(self, row: Mapping[Any, Any]) -> Profile | None:
        """Return the profile of a row, or None if there is none.

        Args:
            row: A row with the columns of `LABELS`.
        """
        return self._by_key.get(profile_key(row))

    def find_index(self, row: Mapping[Any, Any]) -> int | None:
        """Return the position of the profile of a row in the list of its kind, or None if there is none.

        Args:
            row: A row with the columns of `LABELS`.
        """
        profile = self.find(row)
        if profile is None:
            return None
        return profile.index

    def select(self, rows: Iterable[Mapping[Any, Any]]) -> list[Profile]:
        """Return the profiles of some rows, each once.

        Args:
            rows: Rows with the columns of `LABELS`.

        Returns:
            The profiles, in the order of the rows.
        """
        selected = {}
        for key in dict.fromkeys(map(profile_key, rows)):
            if key in self._by_key:
                selected[key] = self._by_key[key]
        return list(selected.values())

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain data for the page, one entry per profile."""
        return list(map(Profile.to_json, self._by_key.values()))


def list_p_values(profiles: Iterable[Profile]) -> tuple[float, ...]:
    """Return the values of p that a reader can choose.

    Args:
        profiles: The profiles of a figure.

    Returns:
        The measured values in descending order. Empty if there is only one.
    """
    values: set[float] = set()
    for profile in profiles:
        values.update(profile.p)
    if len(values) < 2:
        return ()
    return tuple(sorted(values, reverse=True))


def find_highest(profiles: Iterable[Profile], name: str) -> float:
    """Return the highest number of some profiles at any value of p.

    Args:
        profiles: The profiles of a figure.
        name: Name of the list of numbers.

    Returns:
        The number. 0 without profiles.
    """
    highest = 0.0
    for profile in profiles:
        highest = max([highest, *map(max, profile.values[name])])
    return highest


def profile_key(row: Mapping[Any, Any]) -> Key:
    """Return the conditions of a row as text.

    Args:
        row: A row with the columns of `LABELS`.
    """
    values = map({**row, "layers": layer_ranges(row.get("layers"))}.get, LABELS)
    return tuple(map(sanitize_text, values))


@dataclass(frozen=True)
class Profiles:
    """The numbers at every measured p.

    Attributes:
        layers: Sparsity of all layers.
        experts: Spread of sparsity over the experts of each layer.
    """

    layers: ProfileTable
    experts: ProfileTable


def read_profiles(results: Results) -> Profiles:
    """Read the numbers of layers and experts at every measured p.

    Args:
        results: The results of one or several studies.

    Returns:
        The numbers of layers and of experts.
    """
    return Profiles(_read_layer_profiles(results), _read_expert_profiles(results))


def _read_layer_profiles(results: Results) -> ProfileTable:
    """Read the sparsity of all layers at each measured p. Without such a table, the p that is nearest."""
    if not results.layers_by_p.empty:
        return ProfileTable(_records(results.layers_by_p), ("sparsity",), _records(results.layers))
    rows: dict[Key, dict[str, Any]] = {}
    for row in _records(results.layers):
        if finite_number(row.get("sparsity")) is None or finite_number(row.get("layer")) is None:
            continue
        key = (*profile_key(row), str(row.get("p")))
        merged = rows.setdefault(key, {**row, "layer": [], "sparsity": []})
        merged["layer"].append(row["layer"])
        merged["sparsity"].append(row["sparsity"])
    return ProfileTable(list(rows.values()), ("sparsity",), list(rows.values()))


def _read_expert_profiles(results: Results) -> ProfileTable:
    """Read the spread of sparsity over the experts of each layer at each measured p."""
    names = ("lowest", "mean", "highest", "histogram")
    return ProfileTable(_records(results.experts_by_p), names, _records(results.experts))


def _round_all(values: list[float]) -> list[float]:
    return [round(value, 5) for value in values]


def _records(frame: pd.DataFrame) -> list[Mapping[Any, Any]]:
    return list(frame.to_dict("records"))
