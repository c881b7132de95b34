"""Hand-made results: the numbers of a real model, rounded; nothing is measured here."""

import numpy as np
import pandas as pd
from made_up_studies import CRITICAL, SKIPPED, VECTORS

from sparsedial.study.results import Results


def sample(models=("SmolLM2-135M-Instruct",), tasks=("self_prediction",), sites=tuple(CRITICAL), points=7, layers=30):
    """Results for every model x site x task, each with ``points`` points and ``layers`` layers."""
    critical, measured, profile = [], [], []
    for m, model in enumerate(models):
        for t, task in enumerate(tasks):
            for site in sites:
                own = {"model": model, "family": "SmolLM2-Instruct", "rule": "top_p", "task": task, "site": site}
                value = CRITICAL.get(site, 0.3) * (1 + 0.1 * m + 0.05 * t)
                share = SKIPPED.get(site, 0.5)
                critical.append(own | {
                    "parameters": 134_515_008 * (m + 1), "active_parameters": 134_515_008 * (m + 1),
                    "metric": "agreement", "value": value, "low": value - 0.012,
                    "high": value + 0.014, "first_crossing": value, "status": "crossed", "p": 0.97,
                    "skippable": value * share, "skippable_low": (value - 0.012) * share,
                    "skippable_high": (value + 0.014) * share, "dense_score": 0.4127, "examples": 384,
                    "examples_needed": 163, "wide": False, "points": points,
                })  # fmt: skip
                for x in np.linspace(0.4, 2.0, points) if points > 1 else [1.0]:
                    kept = 1 - 0.01 * x**2.5
                    measured.append(own | {
                        "p": 1 - 0.03 * x, "sparsity": value * x, "score": 0.4127 * kept, "dense_score": 0.4127,
                        "retention": kept, "low": kept - 0.004 * x, "high": kept + 0.004 * x, "chosen_by": "search",
                    })  # fmt: skip
                profile += [
                    own | {"vector": vector, "p": 0.97, "phase": "prefill", "layer": layer,
                           "sparsity": value * (0.7 + 0.4 * np.sin(layer / 5 + len(vector)) ** 2)}
                    for vector in VECTORS.get(site, (site,)) for layer in range(layers)
                ]  # fmt: skip
    provenance = {
        "command": ["sparsedial", "run", *models], "versions": {"sparsedial": "0.1.0", "torch": "2.13.0"},
        "machine": {"cpu": "x86_64", "cores": 2, "gpu": None}, "seed": 0, "tasks": list(tasks),
        "models": [{"name": model, "origin": "hub", "digest": "5af5" * 16, "dtype": "bfloat16"} for model in models],
    }  # fmt: skip
    title = f"Critical sparsity of {', '.join(models)}"
    return Results(pd.DataFrame(critical), pd.DataFrame(measured), pd.DataFrame(profile), [], provenance, title, 0.99)
