"""Execute a notebook and store it with its outputs.

python -m tools.documentation.notebook examples/quickstart.ipynb
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TIMEOUT = 60  # seconds per cell


def main() -> None:
    """Execute the notebook that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute_notebook(path, Path(folder)), path)


def execute_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Execute a notebook in a new process.

    Args:
        path: The notebook. It is not changed.
        folder: Folder in which its code runs.

    Returns:
        The notebook with its outputs, without what was printed on stderr, which depends on the machine.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIMEOUT, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    main()
