"""Tables of outlier experts, generated texts and size trends."""

from dataclasses import replace

import pandas as pd
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.supplementary_tables import make_detail_tables
from tests.support.made_up_studies import Model, study

MIXTURE = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)


def find_table(results, heading):
    (table,) = [table for table in make_detail_tables(results) if table.heading == heading]
    return table


@pytest.fixture(scope="module")
def mixture_results(tmp_path_factory):
    """Results of a mixture of experts beside a dense model."""
    models = [MIXTURE, Model("mix-1b", 1_000_000_000)]
    return compute_results(study(tmp_path_factory.mktemp("mixture"), models, ("piqa",), ("input", "all_inputs")))


def test_outlier_experts_are_listed_with_their_definition(mixture_results):
    table = find_table(mixture_results, "Outlier experts")
    assert "1.4826" in table.description and "3 of 72" in table.description
    assert {(row[2], row[3]) for row in table.rows} == {("1", "1")}
    assert {row[0] for row in table.rows} == {"input", "all_inputs: input", "all_inputs: intermediate"}


def test_tables_without_rows_are_left_out(mixture_results):
    experts = mixture_results.experts.assign(outlier=False)
    results = replace(mixture_results, experts=experts, generated=pd.DataFrame())
    assert make_detail_tables(results) == []


def test_generated_texts_are_listed_dense_first(tmp_path):
    store = study(tmp_path, [Model("m", 10_000_000)], ("gsm8k",), ("input", "gate"), generates=("gsm8k",))
    table = find_table(compute_results(store), "Generated texts")
    assert [row[0] for row in table.rows[:5]] == ["dense", "0.98", "0.95", "0.9", "0.8"]
    assert table.rows[0] == ["dense", "60", "2.0%", "–", "–"]
    assert table.groups[0] == "m · gsm8k · input"


def test_size_trends_are_listed_by_family(tmp_path):
    models = [Model("fam-100m", 100_000_000), Model("fam-1b", 1_000_000_000, strength=1.4)]
    results = compute_results(study(tmp_path, models, ("piqa",), ("input",)))
    table = find_table(results, "Model size")
    (row,) = table.rows
    assert row[:2] == ["input", "2 (100 M to 1 B)"]
    assert row[3:] == ["1 of 1", "no clear trend; lower bounds: 1"]
    assert table.groups == ["fam · piqa"]
    trends = results.trends.assign(slope=0.08, low=0.05, high=0.11, censored=0, verdict="more")
    (row,) = find_table(replace(results, trends=trends), "Model size").rows
    assert row[2:] == ["+8.0 points (+5.0 to +11.0)", "1 of 1", "larger models tolerate more sparsity"]
