"""The page stays small enough to be mailed."""

from dataclasses import replace
from itertools import product

import pandas as pd
import pytest

from sparsedial.report.html_page import render_page
from tests.page.conftest import SITES
from tests.support.report_sample import sample

MEGABYTE = 10**6
LAYERS = 30
VALUES = tuple(1 - 0.02 * step for step in range(1, 9))


def full_results(models, tasks):
    """Return results of models at five sites, with layers at every p and changed examples with long texts."""
    results = sample(models=models, tasks=tasks, points=8, layers=LAYERS)
    profiles = []
    examples = []
    changes = []
    curves = results.layers[["model", "rule", "task", "site", "vector"]].drop_duplicates().to_dict("records")
    for curve, p in product(curves, VALUES):
        values = {"p": p, "phase": "prefill", "layers": None}
        shares = [round((1 - p) * (2 + layer / LAYERS), 6) for layer in range(LAYERS)]
        profiles.append({**curve, **values, "layer": list(range(LAYERS)), "sparsity": shares})
    for row in results.critical.to_dict("records"):
        curve = {name: row[name] for name in ("model", "rule", "task", "site")}
        curve |= {"layers": None, "p": row["p"], "sparsity": row["sparsity"]}
        changes.append({**curve, "kind": "examples", "compared": 1000, "changed": 30, "lost": 20, "gained": 10})
        for example in range(6):
            texts = {
                "question": "why is this so " * 18,
                "dense_answer": "because " * 20,
                "sparse_answer": "never " * 26,
            }
            scores = {"dense_score": 1.0, "sparse_score": 0.0}
            examples.append({**curve, "example": example, "id": str(example), **texts, **scores})
    return replace(
        results,
        layers_by_p=pd.DataFrame(profiles),
        changes=pd.DataFrame(changes),
        changed_examples=pd.DataFrame(examples),
    )


@pytest.mark.parametrize(
    ("models", "tasks", "limit"),
    [
        (("model-135m",), ("self_prediction",), 1),
        (tuple(f"model-{number}b-instruct" for number in range(10)), tuple(f"task_{n}" for n in range(10)), 10),
    ],
    ids=["one model", "ten models and ten tasks"],
)
def test_the_page_is_small_enough(models, tasks, limit):
    page = render_page(full_results(models, tasks))
    assert len(SITES) == 5
    assert len(page.encode()) < limit * MEGABYTE
