"""The notebook runs, and its stored outputs are those of a run."""

import re

import nbformat
import pytest

from tests.docs.blocks import ROOT
from tools.documentation.notebook import execute_notebook

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def outputs(notebook):
    """Return the plain text of the outputs of each code cell."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts.append([output.data["text/plain"] for output in cell.outputs])
    return texts


def without_numbers(texts):
    """Return the texts with each number replaced, because the last digits depend on the processor."""
    return [[re.sub(r"[\d.]+", "N", " ".join(text.split())) for text in cell] for cell in texts]


@pytest.mark.timeout(150)
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_and_its_stored_outputs_are_current(tmp_path):
    stored = nbformat.read(NOTEBOOK, as_version=4)
    executed = execute_notebook(NOTEBOOK, tmp_path)
    assert (tmp_path / "quickstart-report.html").is_file()
    short = [index for index, cell in enumerate(outputs(stored)) if len("".join(cell)) < 500]
    assert len(short) == 5
    for index in short:
        assert without_numbers(outputs(stored))[index] == without_numbers(outputs(executed))[index]


def test_the_stored_notebook_has_outputs_and_nothing_of_the_machine():
    text = NOTEBOOK.read_text()
    stored = nbformat.read(NOTEBOOK, as_version=4)
    assert all(outputs(stored))
    assert not re.search(r"site-packages|/home/|/tmp/|stderr", text)
    assert "For the researcher" in stored.cells[0].source
