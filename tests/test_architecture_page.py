"""docs/architecture.md quotes the import layers of pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]


def test_the_page_quotes_the_layers_that_are_checked():
    page = (ROOT / "docs" / "architecture.md").read_text()
    quoted = re.search(r"<!-- layers -->\n```\n(.*?)\n```", page, re.DOTALL)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert quoted and quoted[1].splitlines() == contracts[0]["layers"]


def test_every_package_is_described():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "src" / "sparsedial").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"`{path.name}/`" in page
