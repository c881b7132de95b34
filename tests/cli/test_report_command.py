"""The command ``sparsedial report`` on one study and on several."""

import json

import pytest

from tests.support.command_line import run_sparsedial
from tests.support.made_up_studies import Model, study

ONE_CURVE = {"tasks": ("piqa",), "sites": ("input",)}


def report(*args, cwd):
    """Run the command in a folder."""
    return run_sparsedial("report", *args, cwd=cwd)


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory):
    """Two studies of one model each."""
    folder = tmp_path_factory.mktemp("two")
    study(folder / "a", [Model("fam-100m", 100_000_000)], **ONE_CURVE)
    study(folder / "b", [Model("fam-1b", 1_000_000_000)], **ONE_CURVE)
    return folder


@pytest.mark.parametrize(
    ("args", "folder"),
    [(["a"], "a"), (["a", "b"], "runs/joined"), (["a", "b", "--out", "both"], "both")],
)
def test_where_the_report_goes(two_studies, args, folder):
    process = report(*args, cwd=two_studies)
    assert process.returncode == 0, process.stderr
    assert (two_studies / folder / "report.html").is_file() and f"{folder}/report.html" in process.stdout
    models = {row["model"] for row in json.loads((two_studies / folder / "results.json").read_text())["critical"]}
    assert models == {"fam-100m", "fam-1b"} if "b" in args else {"fam-100m"}
    assert all(model in process.stdout for model in models)
    page = (two_studies / folder / "report.html").read_text()
    assert (f"sparsedial report a b --out {folder}" in page) == ("b" in args)


def test_problems_are_shown_and_set_the_exit_code(two_studies, tmp_path):
    store = study(tmp_path / "c", [Model("fam-3b", 3_000_000_000)], **ONE_CURVE)
    sparse = next(r for r in store.trials() if r.identity.site)
    store.trial_path(sparse.key).write_text("{")
    process = report(two_studies / "a", tmp_path / "c", "--out", tmp_path / "out", cwd=tmp_path)
    assert process.returncode == 1
    assert "problem: " in process.stdout and "problems (1): some requested results are missing" in process.stdout
    assert "quarantine/" in (tmp_path / "out" / "report.html").read_text()
    assert "fam-3b" in process.stdout  # finished trials are shown


def test_hostile_names_reach_neither_the_terminal_nor_a_path(tmp_path):
    hostile = "<script>alert(1)</script>\x1b[31m../../x\x07[red]"
    study(tmp_path / "a", [Model(hostile, 1_000_000), Model("=cmd()", 2_000_000)], (hostile[:30], "+task"), ("input",))
    process = report("a", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "\x1b" not in process.stdout and "\x07" not in process.stdout
    assert "<script>" in process.stdout
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("<script") == 2 and "&lt;script&gt;" in page and "\x1b" not in page
    for path in (tmp_path / "a").glob("*.csv"):
        assert not [
            cell for line in path.read_text().splitlines() for cell in line.split(",") if cell[:1] in tuple("=+@")
        ]
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
