"""The command ``sparsedial figures``, and references in ``sparsedial report``."""

import json

import pytest
from typer.testing import CliRunner

from sparsedial.cli.application import app
from sparsedial.errors import SpecError
from tests.support.command_line import run_sparsedial
from tests.support.made_up_studies import Model, study
from tests.support.references import write_reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of one model, and a reference file."""
    path = tmp_path_factory.mktemp("figures")
    study(path / "a", [Model("fam-100m", 100_000_000)], ("piqa",), ("input", "intermediate"))
    write_reference(path / "theirs.json")
    return path


def test_one_command_writes_all_figures_and_says_which_are_missing(folder):
    process = run_sparsedial("figures", "a", "--out", "out", "--reference", "theirs.json", columns=300, cwd=folder)
    assert process.returncode == 0, process.stderr
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {
        "retention-by-site.svg", "retention-by-site.pdf", "sites.svg", "sites.pdf", "figures.json", "reference.csv",
    }  # fmt: skip
    assert "not drawn: experts: no sparsity by expert" in process.stdout
    assert "Fam 100M (fam-100m), input, piqa: " in process.stdout and "theirs: 20.0%" in process.stdout
    index = json.loads((folder / "out" / "figures.json").read_text())
    assert "experts" in index["not_drawn"]


def test_a_report_with_a_reference_shows_it(folder):
    reference = ["--reference", str(folder / "theirs.json")]
    result = CliRunner().invoke(app, ["report", str(folder / "a"), "--out", str(folder / "page"), *reference])
    assert result.exit_code == 0, result.output
    assert "reference: Fam 100M" in result.output
    assert "Comparison with references" in (folder / "page" / "report.html").read_text()
    assert (folder / "page" / "reference.csv").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--reference", "papr"], "unknown reference 'papr'"),
        (["--reference", "paper"], "reference 'paper': none of its values has a measurement here"),
        (["--format", "svg,jpg"], "unknown format 'jpg'"),
        (["--reference", "{folder}/theirs.json", "--retain", "0.95"], "Use --retain 0.99"),
    ],
)
def test_user_errors_write_nothing(folder, args, message):
    texts = [text.format(folder=folder) for text in args]
    result = CliRunner().invoke(app, ["figures", str(folder / "a"), "--out", str(folder / "none"), *texts])
    assert isinstance(result.exception, SpecError) and message in str(result.exception)
    assert not (folder / "none").exists()
