"""Results of our own with fewer than two examples have no interval, and no finding either."""

import pandas as pd
import pytest

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.analysis.exported_results import read_exported_results
from sparsedial.analysis.findings import compute_findings
from sparsedial.analysis.results import compute_results
from sparsedial.report.critical_table import make_critical_table
from sparsedial.report.summary_text import summarize_in_one_line
from sparsedial.report.table_files import write_tables
from tests.support.made_up_studies import Model, study


@pytest.fixture
def one_example(tmp_path):
    models = (Model("a-1b", 10**9), Model("a-2b", 2 * 10**9))
    return compute_results(study(tmp_path, models, tasks=("arc_easy",), examples=1))


def test_one_example_gives_no_finding(one_example):
    assert set(one_example.critical["status"]) == {"too few examples"}
    assert set(one_example.critical["examples"]) == {1}
    assert one_example.critical[["sparsity", "low", "high", "p", "answer"]].isna().all(axis=None)
    assert compute_findings(one_example).models == ()
    assert one_example.trends.empty and one_example.differences.empty


def test_the_texts_say_what_is_needed_and_how_many_were_scored(one_example):
    assert summarize_in_one_line(one_example) == (
        "There is no critical sparsity, because at least two examples of each task are needed, and 1 was scored."
    )
    table = make_critical_table(read_critical_findings(one_example.critical).headline, one_example.retain)
    assert table.common["Examples"] == "1"
    assert {row.cells["Critical sparsity (95% CI)"] for row in table.rows} == {"too few examples"}
    assert {row.cells["Interpretation"] for row in table.rows} == {
        "At least two examples of each task are needed for a critical sparsity and its interval."
    }


def test_an_average_needs_two_examples_of_each_task(tmp_path):
    results = compute_results(study(tmp_path, (Model("a", 10**9),), examples={"arc_easy": 200, "piqa": 1}))
    rows = results.critical[results.critical["site"] == "input"].set_index("task")
    assert rows["status"].to_dict() == {
        "arc_easy": "crossed", "piqa": "too few examples", "average": "too few examples",
    }  # fmt: skip
    assert rows["examples"].to_dict() == {"arc_easy": 200, "piqa": 1, "average": 201}


def test_written_results_with_one_example_can_be_read_again(one_example, tmp_path):
    write_tables(one_example, tmp_path)
    read = read_exported_results(tmp_path)
    pd.testing.assert_series_equal(read.critical["status"], one_example.critical["status"], check_dtype=False)
