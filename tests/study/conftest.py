"""A tiny model on disk, and a study of it that takes a second."""

import os
from pathlib import Path

import pytest
import sabotage

from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.trial import Trial
from sparsedial.tasks import TaskOptions


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
        options=TaskOptions(sequences=8, length=6, batch=4),
        dtype="float32",
    )


@pytest.fixture
def orders(tmp_path, monkeypatch):
    """Trials go wrong, as a test orders, in this process and in children that it starts: see `sabotage`."""
    monkeypatch.setenv("SABOTAGE", str(tmp_path / "orders.jsonl"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import sabotage\nsabotage.install()\n")
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), here, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(Trial, "run", Trial.run)
    monkeypatch.setattr(Store, "write_trial", Store.write_trial)
    sabotage.install()
    return sabotage.Orders(tmp_path / "orders.jsonl")


@pytest.fixture
def numbers():
    """What a study's trials say: the same for the same study, however it was interrupted."""
    return lambda store: {r["key"]: (r["result"], r["stats"]) for r in store.trials()}
