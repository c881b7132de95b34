"""docs/rules.md describes every built-in rule, and its example runs."""

import re
from pathlib import Path

import pytest

from sparsedial.rules import RULES

pytestmark = pytest.mark.docs

PAGE = Path(__file__).parents[1] / "docs" / "rules.md"


def test_every_rule_is_described():
    page = PAGE.read_text()
    for name in RULES.builtin_names:
        assert page.count(f"`{name}`") >= 3, name
        assert f"`{RULES[name].__name__}`" in page


def test_the_example_runs(capsys):
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(block, PAGE.name, "exec"), {})
    assert 0.2 < float(capsys.readouterr().out.split()[-1]) < 0.8
