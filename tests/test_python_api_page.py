"""The examples of docs/python-api.md run as they stand, one after the other."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

PAGE = Path(__file__).parents[1] / "docs" / "python-api.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert (tmp_path / "report.html").exists()
    assert set(namespace["result"].critical["task"]) == {"confidence"}
    assert "CriticalSparsity(" in capsys.readouterr().out


def test_every_argument_is_described():
    import inspect

    import sparsedial as sd

    page = PAGE.read_text()
    for name in inspect.signature(sd.measure).parameters:
        assert name in ("model", "tokenizer", "task_options") or f"`{name}`" in page, name
