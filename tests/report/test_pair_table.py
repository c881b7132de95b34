"""The tables of differences between models and rules."""

from dataclasses import replace

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.html_page import write_report
from sparsedial.report.pair_table import MAX_LISTED_PAIRS, make_pair_tables
from tests.support.made_up_studies import LARGE, SMALL, Model, study


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Results of two models, two sites, two rules and two tasks."""
    return compute_results(study(tmp_path_factory.mktemp("study"), [SMALL, LARGE], rules=("top_p", "top_k")))


def test_pairs_are_rows_and_sites_are_columns(several):
    models, rules = make_pair_tables(several)
    assert models.heading == "Differences between models"
    assert models.columns == ("Difference", "Examples", "input", "intermediate")
    assert [row[:2] for row in models.rows] == [["fam-100m − fam-1b", "the same"]] * 2
    assert models.groups == ["average · top_k", "average · top_p"]
    assert rules.columns == ("Difference", "input", "intermediate")
    assert [row[0] for row in rules.rows] == ["top_k − top_p"] * 2
    assert rules.groups == ["fam-100m · average", "fam-1b · average"]


def test_intervals_that_exclude_zero_are_marked(several):
    clear = several.differences.assign(difference=0.08, low=0.05, high=0.11, same_examples=False)
    models, _ = make_pair_tables(replace(several, differences=clear))
    assert models.rows[0][1:] == ["independent", "+8.0 (+5.0 to +11.0)*", "+8.0 (+5.0 to +11.0)*"]
    unknown = several.differences.assign(difference=None, low=-0.05, high=0.11)
    models, _ = make_pair_tables(replace(several, differences=unknown.query("site == 'input'")))
    assert models.columns[2:] == ("input",) and models.rows[0][2:] == ["−5.0 to +11.0"]


def test_of_many_models_only_neighbors_are_listed(tmp_path):
    models = [Model(f"m{number}-{number}m", number * 1_000_000) for number in range(1, 8)]
    (table,) = make_pair_tables(compute_results(study(tmp_path, models, ("piqa",), ("input",))))
    assert len(table.rows) == 6 < MAX_LISTED_PAIRS < 21
    assert "only neighbors" in table.description
    assert table.rows[0][0] == "m1-1m − m2-2m"


def test_one_model_has_no_such_table(tmp_path):
    assert make_pair_tables(compute_results(study(tmp_path, [SMALL], ("piqa",)))) == []


def test_the_page_shows_them_and_the_file_holds_all(several, tmp_path):
    text = write_report(several, tmp_path).read_text()
    assert text.count("<td>fam-100m − fam-1b</td>") == 2
    assert len((tmp_path / "differences.csv").read_text().splitlines()) == 1 + 3 * 3 * 4
