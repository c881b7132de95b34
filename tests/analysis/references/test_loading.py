"""References are the built-in one, reference files, and the results of other groups."""

from dataclasses import replace

import pytest

from sparsedial.analysis.references.loading import load_reference, load_references
from sparsedial.analysis.references.records import OVERLAP_PREVIOUS
from sparsedial.analysis.results import compute_results
from sparsedial.errors import SpecError
from sparsedial.report.html_page import write_report
from tests.support.made_up_studies import SMALL, study
from tests.support.references import write_reference


def test_the_built_in_reference_has_the_numbers_of_the_paper():
    paper = load_reference("paper")
    numbers = {(value.model, value.site, value.task): value for value in paper.values}
    assert numbers["LLaDA-8B", "intermediate", "mmlu"].value == 0.695
    assert numbers["LLaDA-8B", "all_inputs", "average"].value == 0.568
    assert numbers["LLaDA-8B", "all_inputs", "average"].is_exact
    assert numbers["Gemma 3 27B", "intermediate", "average"].value == 0.7
    assert not numbers["Gemma 3 27B", "intermediate", "average"].is_exact
    assert len(numbers["Gemma 3 1B", "input", "average"].averaged_tasks) == 9
    (overlap,) = [value for value in paper.values if value.quantity == OVERLAP_PREVIOUS]
    assert (overlap.low, overlap.high) == (0.6, 0.7)
    assert all(value.source for value in paper.values)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study and its report in a directory of its own."""
    folder = tmp_path_factory.mktemp("written")
    store = study(folder / "study", [SMALL], ("arc_easy", "piqa"), ("input",))
    results = compute_results(store)
    write_report(results, folder / "report")
    return folder, results


@pytest.mark.parametrize("name", ["study", "report", "report/results.json", "report/critical.csv"])
def test_results_of_another_group_are_a_reference(written, name):
    folder, results = written
    reference = load_reference(str(folder / name))
    found = {(value.site, value.task): (value.value, value.low, value.high) for value in reference.values}
    for row in results.critical.to_dict("records"):
        assert found[row["site"], row["task"]] == pytest.approx((row["sparsity"], row["low"], row["high"]))
    has_points = name != "report/critical.csv"
    assert len(reference.points) == (len(results.points) if has_points else 0)
    (average,) = [value for value in reference.values if value.task == "average"]
    assert average.averaged_tasks == ("arc_easy", "piqa")


def test_lower_bounds_of_another_group_stay_lower_bounds(tmp_path):
    results = compute_results(study(tmp_path / "study", [SMALL], ("arc_easy",), ("input",)))
    critical = results.critical.assign(status="right-censored", high_censored=True)
    write_report(replace(results, critical=critical), tmp_path / "report")
    for name in ("report/results.json", "report/critical.csv"):
        for found in load_reference(str(tmp_path / name)).values:
            assert found.is_lower_bound and found.is_high_censored and found.highest == 1.0


def test_an_unknown_reference_is_an_error_with_a_suggestion(tmp_path):
    with pytest.raises(SpecError, match=r"unknown reference 'papr'.*Did you mean 'paper'"):
        load_reference("papr")
    with pytest.raises(SpecError, match="neither a study nor a report"):
        load_reference(str(tmp_path))
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match=r"x\.csv: missing columns: model, family"):
        load_reference(str(tmp_path / "x.csv"))


def test_references_with_one_name_are_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    paths = [str(write_reference(tmp_path / name)) for name in ("theirs.json", "a/theirs.json")]
    assert [reference.name for reference in load_references([*paths, "paper"])] == [*paths, "paper"]
    assert [reference.name for reference in load_references([paths[0]] * 2)] == ["theirs"]
