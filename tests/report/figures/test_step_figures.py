"""Figures over the denoising steps, from counts that are known."""

from dataclasses import replace

import numpy as np
import pytest

from sparsedial.analysis.breakdowns import step_overlap_rows
from sparsedial.analysis.results import compute_results
from sparsedial.analysis.retention_curves import CurveLabel, CurveSetting
from sparsedial.report.figures.catalog import make_model_figures
from sparsedial.report.figures.layer_figures import make_overlap_figure, make_state_figure, make_step_figure
from sparsedial.report.figures.profile_data import read_profiles
from sparsedial.rules import TopP
from sparsedial.study.records import StepOverlapCount
from sparsedial.study.store import Store
from tests.support.figure_contents import figure_text, marks, tooltips
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
    by_model = {}
    for model in make_model_figures(results, read_profiles(results)):
        by_model[model.model] = [figure.name for figure in model.figures]
    assert {"overlap", "revealed", "steps"} <= set(by_model["dlm"])
    assert not [name for name in by_model["causal"] if name.startswith(("overlap", "revealed", "steps"))]


def test_the_overlap_is_drawn_from_the_second_step_on(results):
    figure = make_overlap_figure("overlap", results.step_overlap)
    assert [panel.title for panel in figure.panels] == ["input", "all_inputs: input", "all_inputs: intermediate"]
    assert len(marks(figure.panels[0], "m")) == 2 * 2  # steps, lines
    assert "with the first step · step 2 · Jaccard index 0.3" in tooltips(figure)
    assert figure.numbers.rows[0] == ["1", "0.650", "0.400"]
    assert "Jaccard index" in figure_text(figure)


def test_masked_and_revealed_tokens_are_two_lines(results):
    figure = make_state_figure("revealed", results.step_overlap)
    assert list(figure.legend) == ["masked", "revealed"]
    assert [len(marks(panel, "m")) for panel in figure.panels] == [3 * 2] * 3  # steps, states


def test_steps_are_a_map_of_step_and_layer(results):
    figure = make_step_figure("steps", results.steps)
    assert len(marks(figure.panels[0], "hc")) == 3 * 2
    share = results.steps[(results.steps["site"] == "input") & (results.steps["step"] == 2)]["sparsity"]
    assert [f"{100 * share.mean():.1f}%"] == [row[1] for row in figure.numbers.rows if row[0] == "2"][:1]


def test_without_steps_there_is_nothing_to_draw(results):
    first_step = results.step_overlap[results.step_overlap["step"] == 0]
    with pytest.raises(ValueError, match="nothing to draw"):
        make_overlap_figure("overlap", first_step)
    with pytest.raises(ValueError, match="nothing to draw"):
        make_state_figure("revealed", first_step.assign(sparsity=float("nan")))


def test_steps_of_a_task_without_data_are_shown_beside_an_average(tmp_path):
    store = study(
        tmp_path, [Model("dlm", 10_000_000, layers=2, steps=3)], ("piqa", "arc_easy", "denoising"), ("input",)
    )
    results = compute_results(store)
    assert "average" in set(results.critical["task"])
    assert set(results.steps["task"]) == {"average", "denoising"}
