"""The table of critical sparsities as text."""

from dataclasses import replace

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.report.critical_table import make_critical_table
from tests.support.report_sample import sample


def make_table(results):
    return make_critical_table(read_critical_findings(results.critical).headline, results.retain)


def test_conditions_that_all_rows_share_are_named_once(results):
    table = make_table(results)
    assert table.common["Task"] == "self_prediction"
    assert table.common["Model"] == "SmolLM2-135M-Instruct (135 M)"
    assert [group.conditions for group in table.groups] == [{}]
    assert list(table.rows[0].cells) == [
        "Site",
        "Critical sparsity (95% CI)",
        "p",
        "Skippable MACs",
        "Interpretation",
    ]


def test_conditions_that_differ_are_named_above_their_rows():
    table = make_table(sample(models=("a", "b")))
    assert "Model" not in table.common
    assert [group.conditions for group in table.groups] == [{"Model": "a (135 M)"}, {"Model": "b (269 M)"}]
    assert [len(group.rows) for group in table.groups] == [5, 5]


def test_the_average_comes_before_the_tasks():
    table = make_table(sample(tasks=("piqa", "average", "arc_easy"), sites=("up", "input")))
    assert [group.conditions["Task"] for group in table.groups] == ["average", "piqa", "arc_easy"]
    assert [row.cells["Site"] for row in table.groups[0].rows] == ["input", "up"]


def test_rows_that_are_not_decided_are_marked(results):
    results.critical["low"] = [0.0, *results.critical["low"][1:]]
    assert [row.is_undecided for row in make_table(results).rows] == [True, *[False] * 4]


def test_the_numbers_of_a_wide_row_are_those_at_its_lower_end(results):
    critical = results.critical.assign(is_wide=True, p_low=0.99)
    row = make_table(replace(results, critical=critical)).rows[0]
    assert row.cells["Critical sparsity (95% CI)"] == "at least 16.8%, estimate 18.0% (16.8–19.4%)"
    assert row.cells["p"] == "0.99"
    assert row.cells["Skippable MACs"] == "at least 11.2%"


def test_no_findings_give_an_empty_table():
    table = make_critical_table([], 0.99)
    assert table.common == {} and table.rows == []
