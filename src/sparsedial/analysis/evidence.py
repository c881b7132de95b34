"""What a study says about one site and rule, as plain JSON that is stored beside the weights of a model."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from sparsedial.analysis.results import Results
from sparsedial.errors import SpecError
from sparsedial.rules import Rule

ACCELERATED = " (accelerated)"
"""End of the name of a rule whose trials ran on the kernels of accelerated models."""

CRITICAL_COLUMNS = (
    "task", "metric", "rule", "sparsity", "low", "high", "status", "p", "p_low", "p_high", "skippable_weights",
    "dense_score", "examples",
)  # fmt: skip
POINT_COLUMNS = ("task", "metric", "rule", "p", "sparsity", "retention", "low", "high", "score", "dense_score")


def describe_results(results: Results, site: str, rule: Rule | None = None, model: str | None = None) -> dict[str, Any]:
    """Return the critical sparsities at a site, the measured points nearest to a rule, and where the numbers are from.

    Args:
        results: The results of a study, or of several.
        site: Name of the site.
        rule: The rule of the model. Defaults to None: all rules, without points.
        model: Name of the model, if there are several.

    Returns:
        The evidence. Trials on kernels are preferred to others if there are both.

    Raises:
        SpecError: Nothing was measured at this site with this rule, or there are several models.
    """
    critical = _select_rows(results.critical, site, rule, model)
    evidence: dict[str, Any] = {
        "model": critical["model"].iloc[0],
        "site": site,
        "retain": results.retain,
        "accelerated": bool(critical["rule"].str.endswith(ACCELERATED).all()),
        "when_slower": "mask",  # the rule is applied to every token of a measurement
        "critical": _list_rows(critical, CRITICAL_COLUMNS),
    }
    if rule is not None:
        points = _select_rows(results.points, site, rule, model)
        nearest = (points["p"] - rule.value).abs().groupby(points["task"]).idxmin()
        evidence["nearest_points"] = _list_rows(points.loc[nearest], POINT_COLUMNS)
    environment = results.provenance.get("made by", {})
    evidence["machine"] = {name: environment.get(name) for name in ("processor", "cores", "gpus")}
    evidence["versions"] = dict(environment.get("versions", {}))
    evidence["command"] = results.provenance.get("command")
    return evidence


def _select_rows(table: pd.DataFrame, site: str, rule: Rule | None, model: str | None) -> pd.DataFrame:
    """Return the rows of a site, a rule and a model."""
    rows = table
    if not rows.empty:
        rows = rows[(rows["site"] == site) & ((rows["model"] == model) | (model is None))]
    if rule is not None and not rows.empty:
        rows = rows[rows["rule"].str.removesuffix(ACCELERATED) == rule.family]
    if rows.empty:
        measured = sorted({f"{name} with {family}" for name, family in zip(table["site"], table["rule"], strict=True)})
        description = site
        if rule is not None:
            description += f" with {rule.family}"
        raise SpecError(f"evidence: nothing was measured at {description}: expected one of {', '.join(measured)}")
    models = sorted(set(rows["model"]))
    if len(models) > 1:
        raise SpecError(f"evidence: several models: choose one of {', '.join(models)} with model=...")
    is_accelerated = rows["rule"].str.endswith(ACCELERATED)
    if is_accelerated.any():
        return rows[is_accelerated]
    return rows


def _list_rows(rows: pd.DataFrame, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    known = [name for name in columns if name in rows]
    records = []
    for row in rows[known].to_dict("records"):
        records.append({name: _to_json_value(row[name]) for name in known})
    return records


def _to_json_value(value: Any) -> Any:
    """Return a value as JSON can store it, with None for a number that is unknown."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "item"):
        return value.item()
    return value
