"""A tiny model on disk, and a study of it that takes a second."""

import os
from pathlib import Path

import pytest

from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.trial_evaluation import Trial
from tests.support import sabotage


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, llama):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    llama.save_pretrained(folder)
    return folder


@pytest.fixture
def spec(model_dir):
    return StudySpec(
        models=(str(model_dir),),
        sites=("input", "intermediate"),
        values=(0.9, 0.5),
        task_options={"sequences": 8, "length": 6, "batch": 4},
        dtype="float32",
    )


ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def orders(tmp_path, monkeypatch):
    """Return orders for faults in this process and in the children that it starts. See `sabotage`."""
    monkeypatch.setenv("SABOTAGE", str(tmp_path / "orders.jsonl"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("from tests.support import sabotage\nsabotage.install()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), ROOT, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(Trial, "run", Trial.run)
    monkeypatch.setattr(Store, "write_trial", Store.write_trial)
    sabotage.install()
    return sabotage.Orders(tmp_path / "orders.jsonl")


@pytest.fixture
def numbers():
    """Return a function that collects the numbers of a study, which do not depend on interruptions."""
    return lambda store: {r.key: (r.result, r.counts) for r in store.trials()}
