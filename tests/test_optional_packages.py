"""What needs an extra says which line installs it, before a model is loaded. Everything else works without it."""

import importlib.util
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import sparsedial as sd
from sparsedial import optional_packages
from sparsedial.errors import ModelError, SparsedialError, SpecError, TaskError
from sparsedial.models import sources
from sparsedial.models.sources import resolve_source
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.spec import TaskSpec
from tests.support.command_line import run_sparsedial

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TINY = ("run", "zoo:dense-0.4m", "--site", "input", "--p", "0.9", "--sequences", 2, "--length", 8)


@pytest.fixture
def without(monkeypatch):
    """Return a function that makes the modules of an extra look as if they were not installed."""

    def hide(extra):
        hidden = optional_packages.EXTRAS[extra]
        find = importlib.util.find_spec
        monkeypatch.setattr(optional_packages, "find_spec", lambda name: None if name in hidden else find(name))
        for name in list(sys.modules):
            if name.split(".")[0] in hidden:
                monkeypatch.delitem(sys.modules, name)
        for name in hidden:
            monkeypatch.setitem(sys.modules, name, None)  # importing it raises an ImportError
        return rf"pip install 'sparsedial\[{extra}\]'"

    return hide


def test_the_extras_are_those_of_the_distribution():
    extras = PROJECT["optional-dependencies"]
    assert set(optional_packages.EXTRAS) < set(extras)
    distributions = packages_distributions()
    for extra, modules in optional_packages.EXTRAS.items():
        declared = {requirement.partition(">")[0] for requirement in extras[extra]}
        assert len(declared) == len(modules)
        for module in modules:
            names = {name.lower().replace("_", "-") for name in distributions.get(module, [module.replace("_", "-")])}
            assert names & declared, module
    assert extras["all"] == [f"sparsedial[{','.join(sorted(optional_packages.EXTRAS))}]"]


def test_a_task_of_lm_eval(without):
    with pytest.raises(TaskError, match=without("eval")):
        make_tasks([TaskSpec("arc_easy")])


def test_ray(without, tmp_path):
    assert any("sparsedial[ray]" in problem for problem in (without("ray"), *ExecutorConfig("ray").problems()))
    with pytest.raises(SpecError, match=without("ray")):
        sd.measure("zoo:dense-0.4m", executor=ExecutorConfig("ray"), progress=False)


def test_gguf_files_and_the_alias(without, tmp_path, monkeypatch):
    line = without("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=line):
        resolve_source(str(tmp_path / "model.gguf"))

    def unreachable(*_, **__):
        raise ModelError("no hub")

    monkeypatch.setattr(sources, "download_model", unreachable)
    with pytest.raises(ModelError, match=f"smollm2-135m.*{line}"):
        resolve_source("smollm2-135m")


def test_a_run_without_the_extra_for_reports_writes_its_tables(without, tmp_path):
    without("report")
    completed = run_sparsedial(*TINY, "--out", tmp_path / "out")
    assert completed.returncode == 0, completed.stderr
    assert "pip install 'sparsedial[report]'. The tables are written without it." in completed.stderr
    assert completed.stderr.index("sparsedial[report]") < completed.stderr.index("loading zoo:dense-0.4m")
    assert completed.stdout.splitlines()[-1] == f"tables: {tmp_path / 'out'}"
    assert {path.suffix for path in (tmp_path / "out").glob("*.*")} >= {".csv", ".json"}
    assert not (tmp_path / "out" / "report.html").exists()
    for command in (("report", tmp_path / "out"), ("figures", tmp_path / "out", "--out", tmp_path / "figures")):
        refused = run_sparsedial(*command)
        assert refused.returncode == 2
        assert "pip install 'sparsedial[report]'" in refused.stderr
    result = sd.measure("zoo:dense-0.4m", sites="input", p=0.9, sequences=2, length=8, progress=False)
    assert result._repr_html_().startswith("<pre>")
    with pytest.raises(SparsedialError, match="sparsedial"):
        result.report(tmp_path / "page.html")


def test_importing_the_package_imports_none_of_them():
    heavy = (
        "altair",
        "datasets",
        "gguf",
        "lm_eval",
        "numba",
        "pandas",
        "pyarrow",
        "ray",
        "scipy",
        "torch",
        "vl_convert",
    )
    code = f"import sys, sparsedial; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_zoo_is_a_package_of_its_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "sparsedial_zoo", None)
    with pytest.raises(ModelError, match="pip install sparsedial-zoo"):
        resolve_source("zoo:dense-0.4m")
    assert not any("zoo" in requirement for requirement in PROJECT["dependencies"])
