"""Reports of metrics with other directions and scales, and of dense scores at chance."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sparsedial.analysis.breakdowns import generation_length_rows
from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.analysis.findings import compute_findings
from sparsedial.analysis.results import compute_results
from sparsedial.analysis.retention_curves import DisplayNames
from sparsedial.report.critical_table import SPARSITY, make_critical_table
from sparsedial.report.csv_and_json import to_json
from sparsedial.report.droppable_share import NOTHING_TO_RETAIN
from sparsedial.report.html_page import write_report
from sparsedial.report.summary_text import summarize
from sparsedial.report.supplementary_tables import make_detail_tables
from tests.support.made_up_studies import LARGE, SMALL, change_results, study

ONE_SITE = {"sites": ("input",)}


def same(scores, record):
    return scores


def random_answers(scores, record):
    """One of four options, which no rule changes for the better or the worse."""
    seed = 0 if record.identity.is_dense else round(1000 * record.p)
    return (np.random.default_rng([5, seed]).random(len(scores)) < 0.25).astype(float)


def to_loss(scores, record):
    """A loss: 1 for right answers, 3 for others."""
    return 3.0 - 2.0 * scores


def find(results, task):
    return results.critical.set_index("task").loc[task]


def test_an_unknown_direction_leaves_the_curve_out_and_says_what_to_do(tmp_path):
    store = study(tmp_path, [SMALL], **ONE_SITE)
    change_results(store, "piqa", to_loss, metric="loss")
    results = compute_results(store)
    assert set(results.critical["task"]) == {"arc_easy"}
    (problem,) = [problem for problem in results.problems if "the curve is left out" in problem]
    assert "fam-100m, input, piqa" in problem and "'loss'" in problem and "higher_is_better" in problem


def test_a_loss_that_rises_is_a_loss(tmp_path):
    store = study(tmp_path, [SMALL], ("piqa",), **ONE_SITE)
    change_results(store, "piqa", to_loss, metric="loss", higher_is_better=False)
    results = compute_results(store)
    assert find(results, "piqa")["status"] == "crossed"
    assert (results.points["retention"] <= 1).all()
    np.testing.assert_allclose(results.points["retention"], results.points["dense_score"] / results.points["score"])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_average_over_tasks_does_not_depend_on_the_unit_of_a_score(tmp_path, scale):
    store = study(tmp_path, [SMALL], **ONE_SITE)
    change_results(store, "piqa", lambda scores, record: scale * scores, metric="quality", higher_is_better=True)
    results = compute_results(store)
    retention = results.points.set_index(["task", "p"])["retention"].unstack("task")
    if scale == 1.0:
        score = results.points.set_index(["task", "p"])["score"].unstack("task")
        np.testing.assert_allclose(score["average"], (score["arc_easy"] + score["piqa"]) / 2)
        assert find(results, "average")["metric"] == "mean of 2"
        assert not any("one scale" in note for note in results.notes)
    else:
        mean = (retention["arc_easy"] + retention["piqa"]) / 2
        np.testing.assert_allclose(retention["average of retentions"], mean)
        assert find(results, "average of retentions")["metric"] == "mean of 2 retentions"
        assert any("not on one scale" in note for note in results.notes)
        assert "average of retentions" in summarize(results)[0]


def test_a_dense_score_at_chance_has_no_critical_sparsity_and_no_advice(tmp_path):
    store = study(tmp_path / "in", [SMALL], ("arc_easy",), ("input", "intermediate"), examples=400)
    change_results(store, "arc_easy", random_answers, chance=0.25)
    results = compute_results(store)
    assert set(results.critical["status"]) == {"at chance"}
    numbers = ["sparsity", "low", "high", "p", "skippable_macs", "examples_needed"]
    assert results.critical[numbers].isna().all(axis=None)
    assert set(results.layers["p"]) == {0.98}  # the breakdowns remain, at the point of lowest sparsity
    (note,) = [note for note in results.notes if "nothing to retain" in note]
    assert "cannot be told from chance (0.25)" in note
    assert "no dense score can be told from chance" in summarize(results)[0]
    page = write_report(results, tmp_path / "out").read_text()
    assert "more examples" not in page and "higher sparsity" not in page
    assert page.count(f">{NOTHING_TO_RETAIN}<") == 2
    assert json.loads((tmp_path / "out" / "results.json").read_text())["critical"][0]["sparsity"] is None


def test_a_task_at_chance_is_left_out_of_the_average_and_named(tmp_path):
    tasks = ("arc_easy", "piqa", "sciq")
    store = study(tmp_path, [SMALL], tasks, **ONE_SITE, examples=400)
    change_results(store, "sciq", random_answers, chance=0.25)
    results = compute_results(store)
    assert set(results.critical["task"]) == {*tasks, "average of arc_easy, piqa"}
    two = compute_results(study(tmp_path / "two", [SMALL], tasks[:2], **ONE_SITE, examples=400))
    average = find(results, "average of arc_easy, piqa")
    assert average["sparsity"] == find(two, "average")["sparsity"]
    assert average["examples"] == 800
    assert any("sciq" in note and "left out of averages" in note for note in results.notes)
    (finding,) = compute_findings(results).models
    assert finding.best.sparsity.value == average["sparsity"]


def test_generated_answers_that_are_hardly_ever_right_have_nothing_to_retain(tmp_path):
    store = study(tmp_path, [SMALL], ("gsm8k", "piqa"), **ONE_SITE, generates=("gsm8k",))
    change_results(store, "gsm8k", lambda scores, record: np.repeat([1.0, 0.0], [2, len(scores) - 2]))
    results = compute_results(store)
    assert find(results, "gsm8k")["status"] == "at chance"
    assert not any(results.critical["task"].str.startswith("average"))
    assert not results.generated.empty


def test_one_task_above_chance_has_no_average_and_no_note_about_p(tmp_path):
    store = study(tmp_path, [SMALL], **ONE_SITE)
    change_results(store, "piqa", random_answers, chance=0.25)
    results = compute_results(store)
    assert set(results.critical["task"]) == {"arc_easy", "piqa"}
    assert not any("No average" in note for note in results.notes)


def test_a_group_is_compared_with_chance_as_a_whole(tmp_path):
    groups = dict.fromkeys(("anatomy", "law"), ("mmlu", True))
    store = study(tmp_path, [SMALL], tuple(groups), **ONE_SITE, groups=groups)
    for task in groups:
        change_results(store, task, same, chance=0.25)
    row = find(compute_results(store), "mmlu (2 tasks)")
    assert row["status"] == "crossed" and row["chance"] == 0.25
    for task in groups:
        change_results(store, task, random_answers, chance=0.25)
    results = compute_results(store)
    assert find(results, "mmlu (2 tasks)")["status"] == "at chance"


def test_models_at_chance_have_no_size_trend(tmp_path):
    store = study(tmp_path, [SMALL, LARGE], ("piqa",), **ONE_SITE)
    assert len(compute_results(store).trends) == 1
    change_results(store, "piqa", random_answers, chance=0.25)
    assert compute_results(store).trends.empty


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, None])
def test_a_metric_that_is_not_used_may_have_no_finite_value(tmp_path, number):
    store = study(tmp_path, [SMALL], ("gsm8k",), **ONE_SITE, values=(0.9,), generates=("gsm8k",))
    results = compute_results(store)
    dense, sparse = sorted(store.trials(), key=lambda record: not record.identity.is_dense)
    details = {"perplexity": number, "generated_tokens": number, "limit_hit": number}
    sparse = replace(sparse, result=replace(sparse.result, details=details))
    rows = generation_length_rows(DisplayNames.from_trials([sparse]).label(sparse), dense, [sparse])
    results = replace(results, generated=pd.DataFrame(rows))
    (table,) = make_detail_tables(results)
    assert table.rows[1][1:3] == ["–", "–"]
    content = json.loads(to_json(results.generated), parse_constant=pytest.fail)
    assert content[1]["generated_tokens"] is None


def test_the_table_marks_rows_at_chance(tmp_path):
    store = study(tmp_path, [SMALL], ("piqa",), **ONE_SITE)
    change_results(store, "piqa", random_answers, chance=0.25)
    findings = read_critical_findings(compute_results(store).critical)
    (row,) = make_critical_table(findings.headline, 0.99).rows
    assert row.cells[SPARSITY] == NOTHING_TO_RETAIN
