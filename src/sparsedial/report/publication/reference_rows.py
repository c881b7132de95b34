"""Rows of references that are drawn beside the rows of the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.references.records import CRITICAL_SPARSITY, OVERLAP_PREVIOUS, Reference
from sparsedial.analysis.references.row_matching import find_model, is_same_task
from sparsedial.report.charts.common import Row
from sparsedial.report.formatting import sanitize_text


@dataclass(frozen=True)
class References:
    """References, and what of them is drawn.

    Attributes:
        references: The references.
        comparison: Table of `compare_with_references`: its rows are drawn.
    """

    references: tuple[Reference, ...] = ()
    comparison: pd.DataFrame | None = None

    def critical_rows(self, tasks: Sequence[str]) -> list[Row]:
        """Return the critical sparsities of the references.

        Args:
            tasks: Display names of the tasks that are drawn. The rows get these names.

        Returns:
            One row per value: reference, model, family, parameters, site, task, rule, layers, sparsity, low, high and
            kind. The model and its family have the names of the measurement here if there is one.
        """
        rows: list[Row] = []
        families = self._measured_families()
        for values in self._comparison_rows(CRITICAL_SPARSITY):
            task = self._displayed_task(str(values["reference"]), str(values["task"]), tasks)
            if task is None:
                continue
            model = values["model"] if isinstance(values["model"], str) else values["reference_model"]
            family = families.get((values["reference"], values["reference_family"]), values["family"])
            row: Row = {
                "reference": sanitize_text(values["reference"]),
                "model": sanitize_text(model),
                "family": sanitize_text(family),
                "parameters": finite_number(values["parameters"]),
                "site": sanitize_text(values["site"]),
                "task": sanitize_text(task),
                "rule": sanitize_text(values["rule"]),
                "layers": "all",
                "sparsity": finite_number(values["reference_value"]),
                "low": finite_number(values["reference_low"]),
                "high": finite_number(values["reference_high"]),
                "kind": "reference",
            }
            if row not in rows:
                rows.append(row)
        return rows

    def overlap_ranges(self, model: str) -> list[Row]:
        """Return the ranges of the overlap of consecutive denoising steps of a model.

        Args:
            model: Display name of the model.

        Returns:
            One row per reference: reference, low and high.
        """
        rows: list[Row] = []
        for values in self._comparison_rows(OVERLAP_PREVIOUS):
            low = finite_number(values["reference_low"])
            high = finite_number(values["reference_high"])
            row = {"reference": sanitize_text(values["reference"]), "low": low, "high": high}
            if str(values["model"]) == model and low is not None and row not in rows:
                rows.append(row)
        return rows

    def points(self, model: str, tasks: Sequence[str]) -> list[Row]:
        """Return the points of the curves of a model in the references.

        Args:
            model: Display name of the model.
            tasks: Display names of the tasks that are drawn.

        Returns:
            One row per point: reference, model, site, task, rule, layers, sparsity and retention.
        """
        rows: list[Row] = []
        for reference in self.references:
            match = find_model(reference, model)
            for point in reference.points:
                if match is None or point.model != match.name:
                    continue
                task = self._displayed_task(reference.name, point.task, tasks)
                if task is not None:
                    label = {
                        "reference": reference.name,
                        "model": model,
                        "site": point.site,
                        "task": task,
                        "rule": point.rule,
                        "layers": "all",
                    }
                    position = {"sparsity": point.sparsity, "retention": point.retention}
                    rows.append({name: sanitize_text(text) for name, text in label.items()} | position)
        return rows

    def _measured_families(self) -> dict[tuple[str, str], str]:
        """Return the name that a family of a reference has here, for families of which a model was measured."""
        families = {}
        for values in self._comparison_rows(CRITICAL_SPARSITY):
            if isinstance(values["model"], str):
                families[values["reference"], values["reference_family"]] = str(values["family"])
        return families

    def _comparison_rows(self, quantity: str) -> Iterator[Row]:
        if self.comparison is None or self.comparison.empty:
            return
        for values in self.comparison.to_dict("records"):
            if values["quantity"] == quantity:
                yield {str(name): value for name, value in values.items()}

    def _displayed_task(self, reference_name: str, task: str, tasks: Sequence[str]) -> str | None:
        """Return the displayed task that is the same as a task of a reference, or None."""
        if task in tasks:
            return task
        for reference in self.references:
            if reference.name == reference_name:
                return next((name for name in tasks if is_same_task(reference, task, name)), None)
        return None
