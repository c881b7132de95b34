"""The figures and words that compare models: each where there is something to compare, with the numbers as given."""

from dataclasses import replace

import pandas as pd
import pytest
from report_sample import sample
from test_figures import rows, text_of

from sparsedial.report import across, drawing
from sparsedial.report.answer import answer
from sparsedial.report.charts import comparisons, details

SIZES = ("fam-100m", "fam-400m", "fam-2b")


def names(results):
    """The names of all figures of a report."""
    return [name for charts in (comparisons(results), details(results)) for name, _, _ in charts]


def mixture(results):
    """The last model is a mixture of experts of another family."""
    critical = results.critical.copy()
    last = critical["model"] == critical["model"].iloc[-1]
    critical.loc[last, "family"] = "fam (MoE)"
    critical.loc[last, "active_parameters"] = 100_000_000
    return critical


def test_size_is_drawn_only_for_several_sizes():
    assert "size" not in names(sample())
    assert "size" in names(sample(models=SIZES))
    same = sample(models=SIZES)
    assert "size" not in names(replace(same, critical=same.critical.assign(parameters=1e8)))
    assert "size" not in names(replace(same, critical=same.critical.assign(parameters=None)))


def test_size_holds_the_numbers_a_line_per_family_and_a_panel_per_site():
    given = sample(models=SIZES)
    chart = across.by_size(given.critical, 0.99)
    drawn = rows(chart)
    wanted = given.critical.sort_values(["model", "site"])
    found = pd.DataFrame(drawn).sort_values(["model", "site"])
    for name in ("value", "low", "high", "parameters"):
        assert found[name].tolist() == wanted[name].tolist()
    assert {row["panel"] for row in drawn} == {"input", "up", "gate", "intermediate", "all_inputs"}
    assert chart.to_dict()["spec"]["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"
    assert "95% intervals" in text_of(drawing.to_svg(chart)) and "self_prediction" in text_of(drawing.to_svg(chart))


def test_a_mixture_is_shown_at_its_active_and_at_all_its_parameters():
    critical = mixture(sample(models=SIZES))
    text = text_of(drawing.to_svg(across.by_size(critical, 0.99)))
    assert "fam (MoE)" in text and "open at its active" in text
    assert "open at its active" not in text_of(drawing.to_svg(across.by_size(sample(models=SIZES).critical, 0.99)))


def test_lower_bounds_and_missing_intervals_are_drawn_as_such():
    critical = sample(models=SIZES, sites=("input",)).critical.assign(low=None, high=None)
    critical["status"] = ["crossed", "crossed", "beyond"]
    assert "lower bounds" in text_of(drawing.to_svg(across.by_size(critical, 0.99)))
    text = text_of(drawing.to_svg(across.by_model(critical, 0.99)))
    assert "≥ 21.6%" in text and "NaN" not in text


def test_tasks_are_a_heat_map_of_models_or_of_sites():
    one = sample(tasks=("arc_easy", "piqa", "average"))
    assert "tasks" in names(one) and "tasks" not in names(sample())
    chart = across.by_task(one.critical, 0.99)
    assert chart.to_dict()["layer"][0]["encoding"]["y"]["field"] == "site"
    assert chart.to_dict()["layer"][0]["encoding"]["x"]["scale"]["domain"] == ["arc_easy", "piqa", "average"]
    several = sample(models=SIZES, tasks=("arc_easy", "piqa"), sites=("input", "gate"))
    drawn = across.by_task(several.critical, 0.99)
    assert drawn.to_dict()["spec"]["layer"][0]["encoding"]["y"]["field"] == "model"
    text = text_of(drawing.to_svg(drawn))
    for row in several.critical.to_dict("records"):
        assert f"{100 * row['value']:.1f}%" in text
        assert f"{100 * row['low']:.1f}–{100 * row['high']:.1f}%" in text


def test_several_models_are_compared_by_their_averages_and_self_prediction():
    given = sample(models=SIZES, tasks=("arc_easy", "piqa", "average", "self_prediction"))
    charts = {name: chart for name, _, chart in comparisons(given)}
    assert set(charts) == {"critical", "size-1-average", "size-2-self-prediction", "tasks"}
    assert {row["task"] for row in rows(charts["critical"])} == {"average", "self_prediction"}
    assert {row["task"] for row in rows(charts["size-1-average"])} == {"average"}


@pytest.mark.parametrize("name", ["by_size", "by_model", "by_task"])
def test_nothing_to_draw_is_said(name):
    given = sample(models=SIZES).critical.assign(value=float("nan"))
    with pytest.raises(ValueError, match="nothing to draw"):
        getattr(across, name)(given, 0.99)


# ------------------------------------------------------------------ in words


def trends(**given):
    """One row of ``Results.trends``."""
    usual = {"family": "fam", "rule": "top_p", "layers": None, "task": "average", "site": "input", "models": 3,
             "smallest": 1e8, "largest": 2e9, "slope": 0.08, "low": 0.05, "high": 0.11, "rising": 2, "steps": 2,
             "bounds": 0, "verdict": "more"}  # fmt: skip
    return pd.DataFrame([{**usual, **given}])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "tolerate more at input (+8.0, +5.0 to +11.0)"),
        (
            {"slope": -0.08, "low": -0.11, "high": -0.05, "verdict": "less"},
            "tolerate less at input (−8.0, −11.0 to −5.0)",
        ),
        ({"low": -0.01, "verdict": "unclear"}, "no difference beyond the intervals at input (+8.0, −1.0 to +11.0)"),
        ({"low": None, "high": None, "verdict": "unclear"}, "input (+8.0, no interval)"),
        ({"bounds": 1}, "some of these critical sparsities, or the upper ends of their intervals, are lower bounds"),
    ],
)  # fmt: skip
def test_whether_larger_models_tolerate_more_is_said_as_computed(given, said):
    results = replace(sample(models=SIZES), trends=trends(**given))
    (sentence,) = (text for text in answer(results) if text.startswith("Larger models"))
    assert sentence.startswith("Larger models of fam (100.0M to 2.0B) on average over the tasks")
    assert said in sentence


def test_the_best_site_is_counted_over_models_with_what_the_intervals_allow():
    given = sample(models=SIZES, sites=("up", "gate", "intermediate"))
    (sentence,) = (text for text in answer(given) if text.startswith("Of 3 models"))
    assert "intermediate in 3 (beyond the intervals in 3)" in sentence
    near = given.critical.copy()
    near.loc[(near["model"] == "fam-2b") & (near["site"] == "up"), ["value", "low", "high"]] = [0.9, 0.2, 0.95]
    (sentence,) = (t for t in answer(replace(given, critical=near)) if t.startswith("Of 3 models"))
    assert "intermediate in 2 (beyond the intervals in 2) and up in 1 (beyond the intervals in 0)" in sentence
    assert not any(text.startswith(("Of ", "Larger")) for text in answer(sample()))
