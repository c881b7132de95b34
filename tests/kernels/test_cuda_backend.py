"""The CUDA backend, in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # Triton's interpreter takes a minute
def test_triton_interpreted() -> None:
    """The interpreter is chosen when Triton is imported, so the suite runs in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.triton_interpreted"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
