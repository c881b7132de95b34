"""The dry run of a study on the command line: what it lists, and its exit code."""

import yaml

from tests.support.command_line import run_sparsedial
from tests.support.lm_eval_tasks import write_tasks


def dry_run(folder, *arguments, **entries):
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({"models": ["zoo:dense-0.4m"], "sites": ["input"], "values": [0.9], **entries}))
    return run_sparsedial("study", file, "--dry-run", "--out", folder / "out", *arguments)


def test_everything_that_cannot_be_run_is_listed_before_the_exit_code_2(tmp_path):
    write_tasks(tmp_path)
    process = dry_run(
        tmp_path,
        models=["org/gated", "zoo:dense-0.4m", "org/missing"],
        tasks=["tiny_choice", "tiny_missing"],
        task_options={"include_path": str(tmp_path)},
        sites=["input", "inptu"],
    )
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    lines = process.stdout.splitlines()
    assert any("zoo:dense-0.4m" in line and "yes" in line for line in lines)
    assert any("tiny_choice" in line and "yes" in line for line in lines)
    refused = [line for line in lines if line.startswith("cannot be run: ")]
    assert len(refused) == 4
    for word in ("org/gated", "org/missing", "tiny_missing", "'inptu'"):
        assert any(word in line for line in refused), refused
    assert not (tmp_path / "out").exists()


def test_a_study_that_can_be_run_is_described(tmp_path):
    process = dry_run(tmp_path, "--p", "paper", "--card", "EPYC")
    assert process.returncode == 0, process.stderr + process.stdout
    assert "27 to run" in process.stdout  # the dense trial and the 26 values of the paper
    for word in ("estimate: ", "hours on AMD EPYC", "disk: ", "0.4 M"):
        assert word in process.stdout, process.stdout


def test_a_card_that_was_not_measured_is_an_error(tmp_path):
    process = dry_run(tmp_path, "--card", "H9000")
    assert process.returncode == 2
    assert "card 'H9000': its speed was not measured" in process.stderr
