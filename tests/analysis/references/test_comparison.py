"""The values of a reference stand beside the rows that are about the same model, site, rule and task."""

from dataclasses import replace

import pandas as pd
import pytest

from sparsedial.analysis.references.comparison import (
    INSIDE,
    NOT_MEASURED,
    OUTSIDE,
    OVERLAPPING,
    compare_with_references,
)
from sparsedial.analysis.references.loading import load_reference
from sparsedial.analysis.references.records import OVERLAP_PREVIOUS, ReferenceValue
from sparsedial.analysis.results import compute_results
from sparsedial.errors import SpecError
from sparsedial.study.criterion import RETAIN_BY_PERPLEXITY
from tests.support.made_up_studies import LARGE, SMALL, Model, study
from tests.support.references import reference, value
from tests.support.report_sample import sample


def results_with(**columns):
    """Return results with one critical sparsity: 20% (18–23%) at the input of fam-100m on piqa."""
    results = sample(models=("fam-100m",), tasks=("piqa",), sites=("input",), points=2, layers=1)
    row = {"sparsity": 0.2, "low": 0.18, "high": 0.23, "layers": None} | columns
    return replace(results, critical=results.critical.assign(**row))


def compare(results, *values, **fields):
    """Return the rows of a comparison with some values."""
    include_missing = fields.pop("include_missing", False)
    return compare_with_references(results, [reference(*values, **fields)], include_missing).to_dict("records")


@pytest.mark.parametrize(
    ("theirs", "agreement", "difference", "interval"),
    [
        ({"number": 0.21}, INSIDE, -0.01, (-0.03, 0.02)),
        ({"number": 0.23}, INSIDE, -0.03, (-0.05, 0.0)),
        ({"number": 0.25}, OUTSIDE, -0.05, (-0.07, -0.02)),
        ({"number": 0.1}, OUTSIDE, 0.1, (0.08, 0.13)),
        ({"number": 0.25, "low": 0.22, "high": 0.3}, OVERLAPPING, -0.05, (-0.12, 0.01)),
        ({"number": None, "low": 0.19, "high": 0.3}, INSIDE, None, (-0.12, 0.04)),
        ({"number": None, "low": 0.21, "high": 0.3}, OVERLAPPING, None, (-0.12, 0.02)),
    ],
)
def test_a_value_is_inside_or_outside_the_interval(theirs, agreement, difference, interval):
    (row,) = compare(results_with(), value(**theirs))
    assert row["agreement"] == agreement
    if difference is None:
        assert pd.isna(row["difference"])
    else:
        assert row["difference"] == pytest.approx(difference)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(interval)
    assert (row["value"], row["low"], row["high"]) == (0.2, 0.18, 0.23)


def test_an_open_interval_holds_every_higher_value():
    (row,) = compare(results_with(high_censored=True), value(number=0.9))
    assert row["agreement"] == INSIDE and row["high"] == 0.23
    assert pd.isna(row["difference_high"])
    (row,) = compare(results_with(high_censored=True), value(number=0.1))
    assert row["agreement"] == OUTSIDE


@pytest.mark.parametrize(
    ("theirs", "columns", "agreement"),
    [
        ({"number": 0.19, "low": 0.17, "high": 0.19}, {}, INSIDE),  # 20% is in the range from 17%
        ({"number": 0.22, "low": 0.21, "high": 0.22}, {}, OVERLAPPING),
        ({"number": 0.5, "low": 0.4, "high": 0.5}, {}, OUTSIDE),
        ({"number": 0.5, "low": 0.4, "high": 0.5}, {"high_censored": True}, INSIDE),  # both are open
        ({"number": 0.5}, {}, OUTSIDE),
        ({"number": 0.1}, {}, INSIDE),
    ],
)
def test_a_reference_that_is_a_lower_bound_is_a_range_without_an_upper_end(theirs, columns, agreement):
    bound = value(**theirs, is_lower_bound=True, is_high_censored=True)
    (row,) = compare(results_with(**columns), bound)
    assert row["agreement"] == agreement
    assert pd.isna(row["difference_low"])
    assert row["reference_is_lower_bound"] and row["reference_high_censored"]


def test_an_open_interval_of_a_reference_holds_every_higher_value():
    (row,) = compare(results_with(), value(number=0.1, low=0.05, high=0.12, is_high_censored=True))
    assert row["agreement"] == OVERLAPPING  # 10% is not in the interval measured here
    assert pd.isna(row["difference_low"]) and row["difference_high"] == pytest.approx(0.18)


def test_an_interval_without_an_estimate_is_compared_too():
    (row,) = compare(results_with(sparsity=None), value(number=0.21))
    assert row["agreement"] == INSIDE and pd.isna(row["difference"])


def test_a_dense_score_at_chance_is_no_measurement():
    at_chance = results_with(sparsity=None, low=None, high=None, status="at chance")
    with pytest.raises(SpecError, match="none of its values"):
        compare(at_chance, value())
    (row,) = compare(at_chance, value(), include_missing=True)
    assert row["agreement"] == NOT_MEASURED and "chance" in row["note"]


@pytest.mark.parametrize(
    "name", ["fam-100m", "org/fam-100m", "Org/FAM-100M", "fam-100m (bfloat16)", "fam-100m (weights 0ab1)"]
)
def test_a_model_is_recognized_by_its_base_name(name):
    assert compare(results_with(model=name), value())[0]["model"] == name


@pytest.mark.parametrize(
    "columns", [{"model": "fam-100m-it"}, {"site": "gate"}, {"task": "arc_easy"}, {"rule": "top_k"}, {"layers": "0–3"}]
)
def test_other_rows_do_not_match(columns):
    with pytest.raises(SpecError, match="reference 'theirs': none of its values has a measurement here"):
        compare(results_with(**columns), value())


def test_missing_values_are_listed_only_on_request():
    values = (value(), value(site="up", number=0.3), value(model="other"))
    models = ("fam-100m", "other")
    assert [row["agreement"] for row in compare(results_with(), *values, models=models)] == [INSIDE]
    rows = compare(results_with(), *values, models=models, include_missing=True)
    assert [row["agreement"] for row in rows] == [INSIDE, NOT_MEASURED, NOT_MEASURED]
    assert rows[2]["reference_model"] == "other" and pd.isna(rows[2]["model"])


def test_another_share_of_the_dense_score_cannot_be_compared():
    with pytest.raises(SpecError, match=r"keep 95% of the dense score.*--retain 0\.95"):
        compare(results_with(), value(), retain=0.95)


def test_a_perplexity_cannot_be_compared_with_a_share_of_the_score():
    results = replace(sample(sites=("input",)), retain=RETAIN_BY_PERPLEXITY)
    with pytest.raises(SpecError, match=r"those of the results keep a perplexity at most 1% higher.*--criterion score"):
        compare(results, value())


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Results of two models whose average covers two tasks."""
    return compute_results(study(tmp_path_factory.mktemp("averaged"), [SMALL, LARGE], ("arc_easy", "piqa"), ("input",)))


@pytest.mark.parametrize(
    ("tasks", "note"),
    [
        (("arc_easy", "piqa"), ""),
        ((), ""),
        (("arc_easy", "piqa", "sciq"), "the average here covers 2 of the 3 tasks of the reference"),
        (("piqa", "boolq"), "the average here covers 1 of the 2 tasks of the reference and 1 others"),
    ],
)
def test_averages_over_other_tasks_have_a_note(averaged, tasks, note):
    (row,) = compare(averaged, value(task="average", averaged_tasks=tasks))
    assert row["note"] == note


def test_tasks_can_have_other_names_here(averaged):
    names = {"easy": ("arc_easy",), "physics": ("piqa",)}
    assert compare(averaged, value(task="physics"), task_names=names)[0]["task"] == "piqa"
    (row,) = compare(averaged, value(task="average", averaged_tasks=("easy", "physics")), task_names=names)
    assert row["note"] == ""


def test_groups_match_by_the_name_of_the_group():
    assert compare(results_with(task="mmlu (57 tasks)"), value(task="mmlu"))[0]["agreement"] == INSIDE


def test_the_overlap_of_steps_is_compared_as_a_mean_over_the_steps():
    rows = []
    for step, overlap in enumerate((None, 0.6, 0.7)):
        for state, shift in (("all", 0.0), ("masked", 0.2)):
            number = None if overlap is None else overlap + shift
            label = {"model": "LLaDA-8B-Base", "rule": "top_p", "layers": None, "task": "denoising", "site": "input"}
            rows.append(label | {"vector": "input", "state": state, "step": step, "overlap_previous": number})
    results = replace(results_with(model="LLaDA-8B-Base"), step_overlap=pd.DataFrame(rows))
    (row,) = compare_with_references(results, [load_reference("paper")]).to_dict("records")
    assert row["quantity"] == OVERLAP_PREVIOUS and row["agreement"] == INSIDE
    assert row["value"] == pytest.approx(0.65) and row["note"] == "mean over 2 steps"
    high = ReferenceValue("LLaDA-8B-Base", "x", OVERLAP_PREVIOUS, low=0.8, high=0.9)
    (row,) = compare(results, high, models=("LLaDA-8B-Base",))
    assert row["agreement"] == OUTSIDE


def test_two_groups_that_measured_the_same_agree(tmp_path):
    ours = study(tmp_path / "ours", [Model("org/fam-100m", 100_000_000)], ("piqa",), ("input", "intermediate"))
    study(tmp_path / "theirs", [Model("fam-100m", 100_000_000)], ("piqa",), ("input", "intermediate"))
    comparison = compare_with_references(compute_results(ours), [load_reference(str(tmp_path / "theirs"))])
    assert len(comparison) == 2 and set(comparison["agreement"]) == {INSIDE}
    assert comparison["difference"].abs().max() == 0


def test_results_without_a_curve_match_nothing():
    results = replace(results_with(), critical=pd.DataFrame())
    with pytest.raises(SpecError, match=r"none of its values has a measurement here.*measured are none"):
        compare(results, value(number=0.2))
