"""Charts over the denoising steps, from counts that are known."""

from dataclasses import replace

import numpy as np
import pytest

from sparsedial.analysis.breakdowns import step_overlap_rows
from sparsedial.analysis.results import compute_results
from sparsedial.analysis.retention_curves import CurveLabel, CurveSetting
from sparsedial.report.charts.catalog import make_detail_figures
from sparsedial.report.charts.denoising_steps import draw_overlap, draw_token_states
from sparsedial.rules import TopP
from sparsedial.study.records import StepOverlapCount
from sparsedial.study.store import Store
from tests.support.chart_contents import chart_data, chart_text
from tests.support.made_up_studies import VECTORS, Model, study
from tests.support.trial_records import make_record

LABEL = CurveLabel(CurveSetting("m", "m", 1, 1, "input", "top_p", None), "x", "agreement")


def overlap_counts(vectors, shift=0.0):
    """Return the counts of three steps and two layers. Of 10 masked tokens, each step reveals two."""
    counts = []
    for layer in range(2):
        for vector in vectors:
            for step in range(3):
                for state, tokens in (("masked", 10 - 2 * step), ("revealed", 1 + 2 * step)):
                    compared = tokens if step else 0
                    counts.append(
                        StepOverlapCount(
                            layer=layer,
                            module=f"l{layer}",
                            vector=vector,
                            step=step,
                            state=state,
                            tokens=tokens,
                            dropped=40 * tokens + (10 if state == "masked" else 0),
                            total=100 * tokens,
                            compared=compared,
                            overlap_previous=0.6 + 0.1 * layer + shift if compared else None,
                            overlap_first=0.5 - 0.1 * step if compared else None,
                        )
                    )
    return tuple(counts)


def record_with_steps(shift=0.0):
    record = make_record()
    identity = replace(record.identity, rule=TopP(0.9))
    return replace(record, identity=identity, counts=(), step_overlap=overlap_counts(("input",), shift))


def test_overlap_is_weighted_by_the_tokens_that_had_a_previous_step():
    table = step_overlap_rows(LABEL, [record_with_steps(), record_with_steps(shift=0.1)])
    rows = {(row["step"], row["state"]): row for row in table}
    assert set(rows) == {(step, state) for step in range(3) for state in ("masked", "revealed", "all")}
    # 0.6 and 0.7 by layer, and 0.1 more in one of the two trials
    assert rows[1, "all"]["overlap_previous"] == pytest.approx(0.7)
    assert rows[2, "masked"]["overlap_first"] == pytest.approx(0.3)
    assert np.isnan(rows[0, "all"]["overlap_previous"])
    assert rows[1, "masked"]["sparsity"] == pytest.approx((40 * 8 + 10) / 800)
    assert rows[1, "all"]["sparsity"] == pytest.approx((40 * 11 + 10) / 1100)
    assert step_overlap_rows(LABEL, [replace(record_with_steps(), step_overlap=())]) == []


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of a diffusion model with known overlaps, beside an autoregressive model."""
    folder = tmp_path_factory.mktemp("steps")
    models = [Model("dlm", 10_000_000, layers=2, steps=3), Model("causal", 10_000_000)]
    original = study(folder / "original", models, ("denoising",), ("input", "all_inputs"))
    store = Store.create(folder / "with_overlap")
    store.write_spec(original.read_spec())
    store.write_resolved(original.read_resolved())
    for record in original.trials():
        site = record.identity.site
        if site and record.model.name == "dlm":
            counts = overlap_counts(VECTORS.get(site, (site,)))
            store.write_trial(replace(record, step_overlap=counts), original.samples(record))
        else:
            store.write_trial(record, original.samples(record))
    return compute_results(store)


def test_only_models_with_steps_have_these_figures(results):
    names = [figure.name for figure in make_detail_figures(results)]
    assert [name for name in names if name.startswith(("overlap", "revealed"))] == ["overlap", "revealed"]


def test_the_overlap_is_drawn_from_the_second_step_on(results):
    chart = draw_overlap(results.step_overlap)
    data = chart_data(chart)
    assert {row["panel"] for row in data} == {"input", "all_inputs: input", "all_inputs: intermediate"}
    assert sorted({(row["step"], row["series"]) for row in data}) == [
        (1, "with the first step"),
        (1, "with the previous step"),
        (2, "with the first step"),
        (2, "with the previous step"),
    ]
    assert "Jaccard index" in chart_text(chart)


def test_masked_and_revealed_tokens_are_two_lines(results):
    data = chart_data(draw_token_states(results.step_overlap))
    assert len(data) == 3 * 3 * 2  # panels, steps, states
    assert {row["series"] for row in data} == {"masked", "revealed"}


def test_without_steps_there_is_nothing_to_draw(results):
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_overlap(results.step_overlap[results.step_overlap["step"] == 0])


def test_steps_of_a_task_without_data_are_shown_beside_an_average(tmp_path):
    store = study(
        tmp_path, [Model("dlm", 10_000_000, layers=2, steps=3)], ("piqa", "arc_easy", "denoising"), ("input",)
    )
    results = compute_results(store)
    assert "average" in set(results.critical["task"])
    assert set(results.steps["task"]) == {"average", "denoising"}
