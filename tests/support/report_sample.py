"""Hand-made results: the numbers of a real model, rounded. Nothing is measured here."""

from itertools import combinations

import numpy as np
import pandas as pd

from sparsedial.analysis.results import Results
from sparsedial.curves.difference import judge_sign
from tests.support.made_up_studies import CRITICAL, SKIPPED, VECTORS


def sample(models=("SmolLM2-135M-Instruct",), tasks=("self_prediction",), sites=tuple(CRITICAL), points=7, layers=30):
    """Return results for every model, task and site.

    Args:
        models: Names of the models. Each is 10% more tolerant than the one before.
        tasks: Names of the tasks.
        sites: Names of the sites.
        points: Number of points of each curve.
        layers: Number of layers of each model.
    """
    critical, curves, profile = [], [], []
    for m, model in enumerate(models):
        for t, task in enumerate(tasks):
            for site in sites:
                label = {"model": model, "family": "SmolLM2-Instruct", "rule": "top_p", "task": task, "site": site}
                value = CRITICAL.get(site, 0.3) * (1 + 0.1 * m + 0.05 * t)
                critical.append(label | critical_row(134_515_008 * (m + 1), value, SKIPPED.get(site, 0.5), points))
                curves += [label | row for row in point_rows(value, points)]
                profile += [label | row for row in layer_rows(site, value, layers)]
    provenance = {
        "command": ["sparsedial", "run", *models],
        "versions": {"sparsedial": "0.1.0", "torch": "2.13.0"},
        "machine": {"cpu": "x86_64", "cores": 2, "gpu": None},
        "seed": 0,
        "tasks": list(tasks),
        "models": {
            model: {"name": model, "origin": "hub org/model", "digest": "5af5" * 16, "dtype": "bfloat16"}
            for model in models
        },
    }
    return Results(
        pd.DataFrame(critical),
        pd.DataFrame(curves),
        pd.DataFrame(profile),
        provenance=provenance,
        title=f"Critical sparsity of {', '.join(models)}",
        differences=site_differences(pd.DataFrame(critical)),
    )


def site_differences(critical):
    """Return the differences of each pair of sites, with the intervals of independent sites."""
    rows = []
    for _, sites in critical.groupby(["model", "task"], sort=False):
        for first, second in combinations(sites.to_dict("records"), 2):
            low, high = first["low"] - second["high"], first["high"] - second["low"]
            label = {name: first[name] for name in ("model", "family", "rule", "task", "site")}
            numbers = {"difference": first["sparsity"] - second["sparsity"], "low": low, "high": high}
            rows.append(
                {"comparison": "site", **label, "other": second["site"], "same_examples": True}
                | numbers
                | {"verdict": judge_sign(low, high)}
            )
    return pd.DataFrame(rows)


def critical_row(parameters, value, skippable_share, points):
    """Return the numbers of one row of the critical sparsities."""
    return {
        "parameters": parameters,
        "active_parameters": parameters,
        "metric": "agreement",
        "sparsity": value,
        "low": value - 0.012,
        "high": value + 0.014,
        "first_crossing": value,
        "status": "crossed",
        "p": 0.97,
        "high_censored": False,
        "skippable_macs": value * skippable_share,
        "skippable_macs_low": (value - 0.012) * skippable_share,
        "skippable_macs_high": (value + 0.014) * skippable_share,
        "dense_score": 0.4127,
        "examples": 384,
        "examples_needed": 163,
        "is_wide": False,
        "points": points,
    }


def point_rows(value, points):
    """Return the points of a curve that crosses 99% at a sparsity of `value`."""
    rows = []
    for x in np.linspace(0.4, 2.0, points) if points > 1 else [1.0]:
        retention = 1 - 0.01 * x**2.5
        rows.append({
            "p": 1 - 0.03 * x, "sparsity": value * x, "score": 0.4127 * retention, "dense_score": 0.4127,
            "retention": retention, "low": retention - 0.004 * x, "high": retention + 0.004 * x, "chosen_by": "search",
        })  # fmt: skip
    return rows


def layer_rows(site, value, layers):
    """Return the sparsity of each layer and vector of a site."""
    rows = []
    for vector in VECTORS.get(site, (site,)):
        for layer in range(layers):
            sparsity = value * (0.7 + 0.4 * np.sin(layer / 5 + len(vector)) ** 2)
            rows.append({"vector": vector, "p": 0.97, "phase": "prefill", "layer": layer, "sparsity": sparsity})
    return rows
