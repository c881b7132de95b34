"""Results come from studies and from reports whose trials are not there."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from sparsedial.analysis.result_sources import read_results
from sparsedial.analysis.results import compute_results
from sparsedial.analysis.row_order import layer_ranges
from sparsedial.errors import SpecError, StorageError
from tests.support.made_up_studies import LARGE, MIXTURE, SMALL, study
from tests.support.references import write_tables
from tests.support.report_sample import sample


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two studies, and a report of each in a directory of its own."""
    folder = tmp_path_factory.mktemp("sources")
    for name, model in (("a", SMALL), ("b", LARGE)):
        store = study(folder / name, [model], ("piqa",), ("input",))
        write_tables(compute_results(store), folder / f"report-{name}")
    return folder


def test_a_report_holds_the_numbers_of_its_study(folders, tmp_path):
    expected = read_results([folders / "a"])
    report = folders / "report-a"
    for name in ("critical", "points", "layers"):
        (tmp_path / f"{name}.csv").write_bytes((report / f"{name}.csv").read_bytes())
    for results in (read_results([report]), read_results([tmp_path]), read_results([report / "critical.csv"])):
        assert results.critical["sparsity"].tolist() == pytest.approx(expected.critical["sparsity"].tolist())
    assert len(read_results([tmp_path]).points) == len(expected.points)


@pytest.mark.parametrize("names", [("a", "b"), ("report-a", "b"), ("report-a", "report-b"), ("a", "a", "b")])
def test_several_directories_are_read_together(folders, names):
    results = read_results([folders / name for name in names])
    assert set(results.critical["model"]) == {"fam-100m", "fam-1b"}
    assert len(results.critical) == 2


def test_a_curve_in_two_directories_is_an_error(folders):
    with pytest.raises(SpecError, match=r"fam-100m, input, piqa: in .*report-a.*Leave out one of them"):
        read_results([folders / "a", folders / "report-a"])


def test_another_share_needs_the_trials(folders):
    assert read_results([folders / "a"], retain=0.95).retain == 0.95
    with pytest.raises(SpecError, match=r"keep 99% of the dense score, expected those that keep 95%"):
        read_results([folders / "report-a"], retain=0.95)


def test_other_directories_are_errors(folders, tmp_path):
    for path in (tmp_path, tmp_path / "missing", folders / "a" / "study.json"):
        with pytest.raises(SpecError, match="neither a study nor a report"):
            read_results([path])


def change_report(folders, tmp_path, **changes):
    """Write the results of a report, changed, and return the directory."""
    data = json.loads((folders / "report-a" / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(data | changes))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 1}, "schema 1; expected one of 2"),
        ({"retain": 2}, r"retain: expected a share in \(0, 1\]"),
        ({"critical": []}, "no critical sparsities"),
        ({"critical": 3}, "critical: expected a list of rows"),
        ({"critical": [3]}, "critical: expected a list of rows"),
        ({"critical": [{"model": "x"}]}, "critical: missing columns: family, parameters"),
        ({"points": [{"model": "x"}]}, "points: missing columns: site"),
    ],
)
def test_a_malformed_report_is_an_error(folders, tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        read_results([change_report(folders, tmp_path, **changes)])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sparsity", 20.0, "row 2, sparsity: expected a fraction from 0 to 1, got 20"),
        ("low", "x", "row 2, low: expected a fraction from 0 to 1, got 'x'"),
        ("status", "fine", "row 2, status: expected one of crossed"),
    ],
)
def test_invalid_cells_are_errors_with_their_row(folders, tmp_path, column, value, message):
    table = pd.read_csv(folders / "report-a" / "critical.csv").assign(**{column: value})
    table.to_csv(tmp_path / "critical.csv", index=False)
    with pytest.raises(SpecError, match=message):
        read_results([tmp_path])


def test_files_that_are_no_tables_are_errors(tmp_path):
    (tmp_path / "critical.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not a CSV table"):
        read_results([tmp_path])
    (tmp_path / "critical.csv").write_text("")
    with pytest.raises(SpecError, match="not a CSV table"):
        read_results([tmp_path])
    (tmp_path / "results.json").mkdir()
    (tmp_path / "critical.csv").unlink()
    with pytest.raises((SpecError, StorageError)):
        read_results([tmp_path])


def test_tables_of_experts_are_kept(tmp_path):
    store = study(tmp_path / "study", [MIXTURE], ("piqa",), ("input",), values=(0.9,), examples=20)
    write_tables(compute_results(store), tmp_path / "report")
    assert len(read_results([tmp_path / "report"]).experts) == len(compute_results(store).experts) > 0


@pytest.mark.parametrize("layers", [[0, 1, 4], None])
def test_names_and_layers_in_csv_files_are_those_of_the_json_file(tmp_path, layers):
    results = sample(models=("NA", "007"), sites=("input",), points=2, layers=1)
    tables = {}
    for name in ("critical", "points", "layers"):
        table = getattr(results, name)
        tables[name] = table.assign(layers=[layers] * len(table), family="null")
    folder = write_tables(replace(results, **tables), tmp_path / "report")
    expected = read_results([folder]).critical
    (folder / "results.json").unlink()
    read = read_results([folder]).critical
    for column in ("model", "family", "site", "rule", "task"):
        assert read[column].tolist() == expected[column].tolist()
    assert list(map(layer_ranges, read["layers"])) == list(map(layer_ranges, expected["layers"]))
