"""References for tests: a file of the reference format, and a small one in memory."""

import json

from sparsedial.analysis.references.records import Reference, ReferenceModel, ReferencePoint, ReferenceValue
from sparsedial.report.csv_and_json import to_csv, to_json
from sparsedial.report.table_files import SCHEMA

FILE = {
    "format": "sparsedial-reference",
    "version": 1,
    "name": "theirs",
    "description": "numbers of a test",
    "models": [{"name": "Fam 100M", "family": "Fam", "parameters": 100_000_000, "matches": ["fam-100m"]}],
    "values": [
        {"model": "Fam 100M", "site": "input", "task": "piqa", "value": 0.2, "source": "table 1"},
        {
            "model": "Fam 100M",
            "site": "intermediate",
            "task": "piqa",
            "value": 0.4,
            "is_exact": False,
            "source": "figure 2",
        },
    ],
}


def write_reference(path, **changes):
    """Write a reference file with some entries replaced, and return its path."""
    path.write_text(json.dumps(FILE | changes))
    return path


def reference(*values, name="theirs", models=("fam-100m",), points=(), **fields):
    """Return a reference with these values. Its models have the names and no further matches."""
    records = tuple(ReferenceModel(model, "Fam", 1e8) for model in models)
    return Reference(name, "a test", models=records, values=values, points=points, **fields)


def write_tables(results, folder):
    """Write the tables of a report without its page and figures, and return the directory."""
    folder.mkdir()
    (folder / "results.json").write_bytes(to_json({"schema": SCHEMA, **vars(results)}))
    for name in ("critical", "points", "layers", "experts"):
        if not getattr(results, name).empty:
            (folder / f"{name}.csv").write_bytes(to_csv(getattr(results, name)))
    return folder


def value(site="input", task="piqa", number=0.2, model="fam-100m", **fields):
    """Return one critical sparsity."""
    return ReferenceValue(model, "table 1", site=site, task=task, value=number, **fields)


def point(sparsity, retention, site="input", task="piqa", model="fam-100m"):
    """Return one point of a curve."""
    return ReferencePoint(model, site, task, "top_p", sparsity, retention)
