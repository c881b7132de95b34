"""What is declared about versions and distributions agrees with what is installed and checked."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tools.distributions import RELATIVE_LINK, read_example
from tools.lowest_versions import lowest_versions

ROOT = Path(__file__).parents[2]
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)


def test_every_dependency_has_a_lowest_version_that_the_tested_one_meets():
    tested = {name.lower().replace("_", "-"): version for name, version in CONSTRAINTS.items()}
    for name, version in lowest_versions().items():
        assert Version(version) <= Version(tested[name]), name


def test_a_requirement_without_a_lowest_version_is_an_error(tmp_path):
    text = (ROOT / "pyproject.toml").read_text().replace('"torch>=2.11"', '"torch"')
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ValueError, match="'torch' declares no lowest version"):
        lowest_versions(tmp_path / "pyproject.toml")


def test_numba_is_required_only_where_it_has_wheels():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [numba] = [Requirement(text) for text in project["dependencies"] if text.startswith("numba")]
    machine = {"python_version": "3.11", "platform_machine": "x86_64"}
    assert numba.marker.evaluate(machine)
    assert not numba.marker.evaluate({**machine, "platform_machine": "riscv64"})
    assert not numba.marker.evaluate({**machine, "python_version": "3.15"})


def test_relative_links_of_a_description_are_found():
    assert RELATIVE_LINK.findall("[a](docs/a.md) ![b](docs/b.svg)") == ["](docs/a.md)", "](docs/b.svg)"]
    assert RELATIVE_LINK.findall("[a](https://example.org) [b](#b)") == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = (ROOT / "README.md").read_text()
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert RELATIVE_LINK.findall(text) == []
    assert "https://raw.githubusercontent.com/sparsedial/sparsedial/main/docs/figures/" in text


def test_the_example_of_the_readme_is_run_on_a_model_of_the_zoo():
    assert 'load_model("zoo:dense-0.4m")' in read_example()


def test_pre_commit_uses_the_tested_version_of_ruff():
    [ruff] = [
        repo
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        if "ruff" in repo["repo"]
    ]
    assert ruff["rev"] == f"v{CONSTRAINTS['ruff']}"


def test_the_citation_has_the_version_of_the_package():
    import sparsedial

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == sparsedial.__version__


def test_the_workflow_calls_what_runs_on_every_change():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["ci"]["steps"]]
