"""The Python example of the README runs as it stands."""

import re
from functools import partial
from pathlib import Path

import pytest

import sparsedial as sd
from tools.distributions import FEW_TRIALS

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    """The quick start runs as typed, on a model of the zoo and with few examples and points."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sd, "measure", partial(sd.measure, **FEW_TRIALS))
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    namespace = {}
    exec(compile(example.replace("smollm2-135m", "zoo:dense-0.4m"), "README.md", "exec"), namespace)
    output = capsys.readouterr().out
    assert "Critical sparsity" in output and "sparsity" in output
    assert set(namespace["result"].critical["task"]) == {"self_prediction"}
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target
