"""The Python example of the README runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_python_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    output = capsys.readouterr().out
    assert "sparsity" in output and "0.35" in output


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target
