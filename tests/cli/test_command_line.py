"""What all commands have in common: help, the version, streams, suggestions, lists and exit codes."""

import json
import os
import subprocess
import sys

import pytest

from sparsedial import __version__
from sparsedial.cli import inspect_command
from sparsedial.models import sources
from tests.support.command_line import run_sparsedial
from tests.support.made_up_studies import Model, study

COMMANDS = ("inspect", "run", "study", "report", "figures", "fsck")
TINY = ("zoo:dense-0.4m", "--sequences", 2, "--length", 8, "--p", "0.9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "a"
    study(path, [Model("fam-100m", 100_000_000)], ("piqa",), ("input",))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_the_options_for_output(command):
    short = run_sparsedial(command, "-h")
    assert short.returncode == 0
    assert short.stdout == run_sparsedial(command, "--help").stdout
    for option in ("--json", "--quiet"):
        assert option in short.stdout


def test_options_are_grouped_in_panels():
    text = run_sparsedial("run", "-h").stdout
    for panel in ("Model", "Sparsity", "Tasks", "Diffusion", "Search", "Output"):
        assert f"─ {panel} ─" in text


def test_the_version():
    assert run_sparsedial("--version").stdout == f"sparsedial {__version__}\n"


def test_completion_can_be_installed():
    process = subprocess.run(
        [sys.executable, "-m", "sparsedial", "--show-completion", "bash"],
        capture_output=True, text=True, env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "complete" in process.stdout


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [
        (("run", "smollm2-135"), "did you mean 'smollm2-135m'?"),
        (("run", "zoo:dense-5"), "did you mean 'zoo:dense-5m'"),
        (("run", "zoo:dense-0.4m", "--tasks", "self_predction"), "did you mean 'self_prediction'?"),
        (("run", "zoo:dense-0.4m", "--site", "inptu"), "did you mean 'input'?"),
        (("run", "zoo:dense-0.4m", "--rule", "topp"), "did you mean 'top_p'?"),
        (("run", "zoo:dense-0.4m", "--presicion", 1), "--precision"),
        (("run", "zoo:dense-0.4m", "--sites", "input"), "--site"),
        (("inspekt", "zoo:dense-0.4m"), "Did you mean 'inspect'?"),
    ],
)
def test_misspelled_names_and_options_get_suggestions(args, suggestion, tmp_path):
    completed = run_sparsedial(*args, cwd=tmp_path)
    assert completed.returncode == 2
    assert suggestion in completed.stderr
    assert completed.stdout == ""


@pytest.mark.parametrize("sites", [("--site", "input,up"), ("--site", "input", "--site", "up")])
def test_lists_are_written_with_commas_or_by_repetition(sites, tmp_path):
    out = tmp_path / "out"
    completed = run_sparsedial("run", *TINY, *sites, "--layers", "0", "--layers", "1-2", "--out", out, "--json")
    assert completed.returncode == 0, completed.stderr
    rows = json.loads(completed.stdout)["critical"]
    assert [row["site"] for row in rows] == ["input", "up"]
    assert (out / "results.json").read_text() == completed.stdout
    assert "Critical sparsity" in completed.stderr


def test_quiet_leaves_only_the_results(folder, tmp_path):
    out = tmp_path / "out"
    loud = run_sparsedial("run", *TINY, "--site", "input", "--out", out)
    assert "loading zoo:dense-0.4m (from: zoo)" in loud.stderr
    quiet = run_sparsedial("run", *TINY, "--site", "input", "--out", out, "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout
    assert "model: zoo:dense-0.4m (zoo)" in quiet.stdout
    assert run_sparsedial("run", *TINY, "--site", "inptu", "--quiet").stderr != ""
    both = run_sparsedial("fsck", folder, "--quiet", "--json")
    assert json.loads(both.stdout)["schema"] == 1
    assert both.stderr == ""


def test_what_libraries_print_is_no_part_of_the_json_document(monkeypatch):
    def resolve(name, **_):
        print("a library says hello")
        return original(name)

    original = sources.resolve_source
    monkeypatch.setattr(sources, "resolve_source", resolve)
    completed = run_sparsedial("inspect", "zoo:dense-0.4m", "--json")
    assert json.loads(completed.stdout)["ffns"] == 3
    assert "a library says hello" in completed.stderr


def test_every_command_prints_json(folder, tmp_path):
    study_file = tmp_path / "study.yaml"
    study_file.write_text("models: [zoo:dense-0.4m]\nsites: [input]\nvalues: [0.9]\n")
    dry_run = run_sparsedial("study", study_file, "--dry-run", "--json")
    plan = json.loads(dry_run.stdout)
    assert plan["can_run"] and plan["finished_trials"] == 0 and len(plan["trials"]) == 2
    assert plan["models"][0]["parameters"] == 422336
    assert json.loads(run_sparsedial("report", folder, "--json").stdout)["critical"]
    figures = json.loads(run_sparsedial("figures", folder, "--out", tmp_path / "figures", "--json").stdout)
    assert "experts" in figures["not_drawn"]
    (next(folder.glob("trials/*/*.json"))).write_text("{")
    broken = run_sparsedial("fsck", folder, "--json")
    assert broken.returncode == 1
    assert {problem["kind"] for problem in json.loads(broken.stdout)["problems"]} >= {"corrupt"}


def test_a_study_that_finishes_with_failed_trials_exits_with_1(tmp_path):
    study_file = tmp_path / "study.yaml"
    study_file.write_text(
        "models: [some-org/missing, zoo:dense-0.4m]\nsites: [input]\nvalues: [0.9]\n"
        "task_options: {sequences: 2, length: 8}\n"
    )
    completed = run_sparsedial("study", study_file, "--out", tmp_path / "out", "--json")
    assert completed.returncode == 1, completed.stderr
    assert any("some-org/missing" in problem for problem in json.loads(completed.stdout)["problems"])
    assert len(list((tmp_path / "out").glob("trials/*/*.json"))) == 2


def test_ctrl_c_ends_any_command_with_130(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect_command, "_load", interrupt)
    completed = run_sparsedial("inspect", "zoo:dense-0.4m")
    assert completed.returncode == 130
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("run", ""), ["'': expected an argument"]),
        (("run", "zoo:dense-0.4m", "--out", ""), ["--out '': expected a value. Leave out the option"]),
        (("run", "m", "--site=", "--text", " "), ["--site '': expected a value", "--text '': expected a value"]),
        (("study", "study.yaml", "--out="), ["--out '': expected a value"]),
        (("report", ""), ["'': expected an argument"]),
        (("report", "runs/a", "--out", ""), ["--out '': expected a value"]),
        (("figures", "runs/a", "--out", ""), ["--out '': expected a value"]),
        (("fsck", ""), ["'': expected an argument"]),
        (("inspect", ""), ["'': expected an argument"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_empty_values_are_refused_and_nothing_is_written(words, messages, tmp_path):
    process = run_sparsedial(*words, cwd=tmp_path)
    assert process.returncode == 2 and "Traceback" not in process.stderr
    for message in messages:
        assert message in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "FOLDER", "--include-missing"), "--include-missing: it has no effect without --reference"),
        (("figures", "FOLDER", "--out", "f", "--include-missing"), "--include-missing: it has no effect without"),
        (("study", "study.yaml", "--card", "H100"), "--card H100: it has no effect without --dry-run"),
    ],
)
def test_options_without_effect_are_errors(folder, words, message, tmp_path):
    (tmp_path / "study.yaml").write_text("models: [zoo:dense-0.4m]\n")
    words = [folder if word == "FOLDER" else word for word in words]
    process = run_sparsedial(*words, cwd=tmp_path)
    assert process.returncode == 2
    assert message in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_a_mask_token_without_effect_is_noted(tmp_path):
    process = run_sparsedial("run", *TINY, "--site", "input", "--mask-token", 3, "--out", tmp_path)
    assert process.returncode == 0, process.stderr
    assert "zoo:dense-0.4m: the mask token 3 has no effect, because the model is causal" in process.stderr
