"""The figures hold the numbers of the tables, on the axes of the paper."""

from dataclasses import replace

import pandas as pd
import pytest

from sparsedial.analysis.references.comparison import compare_with_references
from sparsedial.analysis.results import compute_results
from sparsedial.report.publication.denoising import draw_step_overlap, draw_step_sparsity
from sparsedial.report.publication.experts import draw_experts
from sparsedial.report.publication.generation import add_scores, draw_generation
from sparsedial.report.publication.model_sizes import draw_sizes
from sparsedial.report.publication.reference_rows import References
from sparsedial.report.publication.retention import draw_retention_by_site, draw_retention_by_size
from sparsedial.report.publication.sites import draw_sites
from tests.support.chart_contents import chart_data, chart_text
from tests.support.made_up_studies import Model, study
from tests.support.references import point, reference, value
from tests.support.report_sample import sample


def only(rows, **columns):
    """Return the rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in columns.items())]


def find_encodings(spec, channel):
    """Return all encodings of a channel in a chart."""
    found = []
    if isinstance(spec, dict):
        found += [spec["encoding"][channel]] if channel in spec.get("encoding", {}) else []
        for part in spec.values():
            found += find_encodings(part, channel)
    elif isinstance(spec, list):
        for part in spec:
            found += find_encodings(part, channel)
    return found


@pytest.fixture(scope="module")
def family():
    """Results of three sizes on one task, and the names of the models."""
    models = ("fam-100m", "fam-400m", "fam-2b")
    return sample(models=models, tasks=("piqa",), sites=("input", "gate"), points=3, layers=1), models


def test_retention_starts_at_the_dense_model_and_has_the_points(family):
    results, _ = family
    points = results.points[results.points["model"] == "fam-100m"]
    chart = draw_retention_by_site(points, [], 0.99)
    data = chart_data(chart)
    gate = points[points["site"] == "gate"]
    assert [row["sparsity"] for row in only(data, kind="point", series="gate")] == gate["sparsity"].tolist()
    assert [(row["sparsity"], row["retention"]) for row in only(data, kind="dense")] == [(0, 1)] * 2
    assert {row["retention"] for row in only(data, kind="threshold")} == {0.99}
    x = find_encodings(chart.to_dict(), "x")[0]
    assert x["title"] == "sparsity" and x["scale"].get("type", "linear") == "linear" and x["scale"]["domain"][0] == 0


def test_all_points_are_within_the_axes():
    results = sample(sites=("input",), points=4, layers=1)
    points = results.points.assign(retention=[1.07, 0.9, 0.3, 0.0], sparsity=[0.1, 0.5, 0.9, 1.0])
    chart = draw_retention_by_site(points, [], 0.99)
    x = find_encodings(chart.to_dict(), "x")[0]["scale"]["domain"]
    y = find_encodings(chart.to_dict(), "y")[0]["scale"]["domain"]
    assert x == [0, 1] and y[0] <= 0 and y[1] >= 1.07


def test_sizes_of_a_family_have_a_line_each(family):
    results, models = family
    data = chart_data(draw_retention_by_size(results.points, models, 0.99))
    assert {row["series"] for row in only(data, kind="point")} == set(models)
    assert {row["panel"] for row in data} == {"input", "gate"}


def test_size_is_on_a_logarithmic_axis(family):
    results, _ = family
    chart = draw_sizes(results.critical, [])
    assert find_encodings(chart.to_dict(), "x")[0]["scale"]["type"] == "log"
    assert sorted({row["parameters"] for row in chart_data(chart)}) == sorted(set(results.critical["parameters"]))


def test_bounds_have_arrows_and_curves_without_an_estimate_a_bar(family):
    results, _ = family
    critical = results.critical.assign(status=["right-censored", *["crossed"] * 5])
    critical.loc[1, "sparsity"] = None
    for chart, arrow in ((draw_sizes(critical, []), "↑"), (draw_sites(critical, []), "→")):
        data = chart_data(chart)
        assert [row["kind"] for row in data].count("bound") == 1
        assert [row["kind"] for row in data].count("interval") == 1
        assert chart_text(chart).count(arrow) == 1


def test_a_bound_at_the_end_leaves_room_for_its_arrow(family):
    results, _ = family
    critical = results.critical.assign(status="right-censored", sparsity=0.99, high=0.99)
    encodings = find_encodings(draw_sites(critical, []).to_dict(), "x")
    domains = [encoding["scale"]["domain"] for encoding in encodings if "scale" in encoding]
    assert domains and all(domain[1] > 1.05 for domain in domains)


def test_references_have_open_marks_and_the_colour_of_their_series(family):
    results, _ = family
    known = [
        reference(value("gate", number=0.3), models=("fam-100m",), points=(point(0.2, 0.98, "gate"),)),
        reference(value("gate", number=0.4), name="others"),
    ]
    references = References(tuple(known), compare_with_references(results, known))
    points = results.points[results.points["model"] == "fam-100m"]
    charts = (
        draw_sites(results.critical, references.critical_rows(["piqa"])),
        draw_retention_by_site(points, references.points("fam-100m", ["piqa"]), 0.99),
    )
    for chart in charts:
        (row,) = only(chart_data(chart), series="gate (theirs)")
        assert row["kind"] == "reference"
        spec = chart.to_dict()
        fill = next(scale for scale in find_encodings(spec, "fill"))["scale"]
        stroke = next(scale for scale in find_encodings(spec, "stroke"))["scale"]
        fills = dict(zip(fill["domain"], fill["range"], strict=True))
        strokes = dict(zip(stroke["domain"], stroke["range"], strict=True))
        assert fills["gate (theirs)"] == "white" != fills["gate"]
        assert strokes["gate (theirs)"] == strokes["gate"] == fills["gate"]
        assert "theirs" in chart_text(chart) and "gate (theirs)" not in chart_text(chart)  # one entry of the legend
    row = only(chart_data(charts[0]), series="gate (others)")[0]
    assert row["sparsity"] == 0.4


def test_references_of_models_that_were_not_measured_join_the_family_here(family):
    results, _ = family
    known = reference(value("gate"), value("gate", model="fam-9b"), models=("fam-100m", "fam-9b"))
    comparison = compare_with_references(results, [known], include_missing=True)
    rows = References((known,), comparison).critical_rows(["piqa"])
    assert {row["family"] for row in rows} == {"SmolLM2-Instruct"}
    assert {row["model"] for row in rows} == {"fam-100m", "fam-9b"}


def test_experts_have_minimum_mean_and_maximum(results):
    is_drawn = (results.experts["site"] == "input") & (results.experts["phase"] == "prefill")
    experts = results.experts[is_drawn]
    data = chart_data(draw_experts(experts))
    for layer, rows in experts.groupby("layer"):
        found = {row["series"]: row["sparsity"] for row in only(data, layer=layer)}
        known = rows["sparsity"].dropna()
        assert found["minimum"] == pytest.approx(known.min())
        assert found["mean"] == pytest.approx(known.mean())
        assert found["maximum"] == pytest.approx(known.max())


def test_steps_have_the_mean_and_the_range_of_the_layers(results):
    steps = results.steps[(results.steps["site"] == "input") & (results.steps["task"] == "average")]
    data = chart_data(draw_step_sparsity(steps))
    rows = steps[steps["step"] == 2]["sparsity"]
    found = {row["series"]: row["value"] for row in only(data, step=2)}
    assert list(found.values()) == pytest.approx([rows.max(), rows.mean(), rows.min()])


def test_the_overlap_has_the_range_of_a_reference():
    label = {"model": "m", "rule": "top_p", "layers": None, "task": "denoising", "site": "input", "vector": "input"}
    rows = [
        label | {"state": "all", "step": step, "overlap_previous": 0.8, "overlap_first": 0.5, "sparsity": 0.4}
        for step in (1, 2, 3)
    ]
    chart = draw_step_overlap(pd.DataFrame(rows), [{"reference": "theirs", "low": 0.6, "high": 0.7}])
    data = chart_data(chart)
    assert {row["value"] for row in only(data, series="with the previous step (theirs)")} == {0.6, 0.7}
    assert len(only(data, series="with the first step")) == 3
    assert find_encodings(chart.to_dict(), "y")[0]["scale"]["domain"] == [0, 1]


def test_generation_shows_score_and_length_at_the_same_sparsity(results):
    rows = add_scores(results.generated, results.points)
    assert len(rows) == len(results.generated)
    row = rows[(rows["model"] == "fam-1b") & (rows["site"] == "input")].iloc[2]
    points = results.points
    same = points[(points["model"] == "fam-1b") & (points["site"] == "input") & (points["task"] == "gsm8k")]
    match = same[same["p"] == row["p"]].iloc[0]
    assert (row["sparsity"], row["score"]) == (match["sparsity"], match["score"])
    dense = rows[rows["p"].isna()]
    assert set(dense["sparsity"]) == {0.0} and dense["score"].notna().all()
    text = chart_text(draw_generation(rows[rows["model"] == "fam-1b"]))
    assert "tokens per text" in text and "score" in text and "cut off at the limit" in text


def test_lengths_without_points_are_left_out(results):
    assert add_scores(results.generated, results.points[results.points["task"] == "piqa"]).empty
    rows = add_scores(results.generated.assign(limit_hit=None), results.points)
    assert "cut off" not in chart_text(draw_generation(rows[rows["model"] == "fam-1b"]))


def test_hostile_names_reach_no_expression(tmp_path):
    hostile = "'] || alert(1) || datum['<script>"
    models = [Model(hostile, 1_000_000, layers=2), Model(hostile + "2", 2_000_000, layers=2)]
    results = compute_results(study(tmp_path, models, ("piqa",), ("input",), values=(0.9, 0.8), examples=50))
    chart = draw_retention_by_size(results.points, [*results.points["model"].unique()], 0.99)
    assert "alert(1)" in chart_text(chart)
    expressions = str(next(part for part in chart.to_dict()["layer"] if "transform" in part)["transform"])
    assert "alert" not in expressions


def test_there_is_nothing_to_draw_without_numbers(results):
    points = results.points.assign(retention=float("nan"))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_retention_by_site(points, [], 0.99)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_sites(replace(results).critical.assign(sparsity=None, low=None), [])
