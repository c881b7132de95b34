"""A tiny model on disk, and a study of it that takes a second."""

import pytest

from sparsedial.study.spec import StudySpec
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
