"""The packages in examples/plugins work through their entry points: their own tests, the command line and a study."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsedial.cli.application import app
from tests.support.plugins import EXAMPLES, install_example, write_metadata

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
NAMES = ("rule", "site", "task")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the three installed examples, and the metadata of a broken package."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in NAMES:
        install_example(name, folder)
    write_metadata(folder, "broken-package", "2.0", {"sparsedial.rules": {"broken_rule": "no_such_module:Rule"}})
    return folder


@pytest.fixture
def installed(folder, monkeypatch, registrations):
    """Let this process find the packages."""
    monkeypatch.syspath_prepend(str(folder))
    yield
    for module in [name for name in sys.modules if name.startswith("sparsedial_example_")]:
        del sys.modules[module]


def run_python(folder, *arguments):
    """Run Python in a process that finds the packages, and return its exit status and what it printed."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True
    )
    return process.returncode, process.stdout + process.stderr


def test_the_tests_of_the_examples_pass(folder):
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLES), "-c", os.devnull]
    status, output = run_python(folder, "-m", "pytest", *options, *(str(EXAMPLES / name) for name in NAMES))
    assert status == 0, output
    assert "6 passed" in output


def test_a_study_of_plugins_on_the_command_line(folder, tmp_path):
    """The trials run in a child process, because there is a time limit."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "models: [zoo:dense-0.4m]\nsites: [input_of_first_half]\nrules: [above_mean, layer_threshold]\nvalues: [0.5]\n"
        "tasks: [{name: token_probability, limit: 3}]\ndtype: float32\n"
    )
    study = tmp_path / "study"
    options = ["--out", str(study), "--device", "cpu", "--timeout", "100"]
    status, output = run_python(folder, "-m", "sparsedial", "study", str(spec), *options)
    assert status == 0, output
    trials = [json.loads(path.read_text()) for path in sorted(study.glob("trials/*/*.json"))]
    assert {trial["identity"]["task"]["task"] for trial in trials} == {"token_probability"}
    sparse = {trial["identity"]["rule"]["rule"]: trial for trial in trials if trial["identity"]["rule"] is not None}
    assert len(trials) == 3 and set(sparse) == {"above_mean", "layer_threshold"}
    assert sparse["above_mean"]["identity"]["rule"] == {"rule": "above_mean", "value": 0.5, "version": 1}
    assert "calibration" not in sparse["above_mean"]["identity"]
    assert len(sparse["layer_threshold"]["identity"]["calibration"]) == 64
    for trial in sparse.values():
        assert 0.1 < trial["result"]["dropped"] / trial["result"]["total"] < 0.9
    page = (study / "report.html").read_text()
    for name in ("above_mean", "layer_threshold", "token_probability", "input_of_first_half"):
        assert name in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "above_meen"], "unknown rule 'above_meen': expected one of"),
        (["--site", "up_and_gat"], "did you mean 'up_and_gate'?"),
        (["--rule", "broken_rule"], "rule 'broken_rule': the package broken-package 2.0 declares it"),
        (["--rule", "above_mean", "--p", "9"], "expected a number in [0, 8]"),
        (["--tasks", "token_probability,next_token", "--sequences", "3"], "unknown task option 'sequences'"),
    ],
)
def test_errors_of_the_command_line_name_the_problem(installed, tmp_path, arguments, message):
    if "--tasks" not in arguments:
        arguments = [*arguments, "--tasks", "next_token"]
    arguments = ["run", "zoo:dense-0.4m", "--device", "cpu", "--out", str(tmp_path / "out"), *arguments]
    assert message in str(CliRunner().invoke(app, arguments).exception)


@pytest.mark.parametrize(("rule", "site"), [("layer_threshold", "input_of_first_half"), ("above_mean", "output")])
def test_the_model_plugin_of_lm_eval_finds_rules_and_sites(installed, trained, rule, site):
    from sparsedial.tasks.lm_eval.model_plugin import SparsedialLM

    plugin = SparsedialLM(trained.model, tokenizer=trained.tokenizer, device="cpu", rule=rule, site=site, value=0.5)
    assert (plugin.sparsifier.site, plugin.sparsifier.rule.name) == (site, rule)
