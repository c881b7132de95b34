"""The products of a GPU, in Triton's interpreter, and the errors of the backend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_products_in_the_interpreter_equal_their_definition():
    """The interpreter is chosen when Triton is imported, so the checks run in a process of its own."""
    pytest.importorskip("triton")
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.cuda_products_interpreted"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
