"""Figures of critical sparsity hold the numbers as given."""

import pytest

from sparsedial.analysis.differences import CurveDifference
from sparsedial.analysis.finding_records import Conditions, PairComparison, PairGroup, SiteDifference
from sparsedial.report.figures.critical_figures import (
    make_difference_figure,
    make_model_figure,
    make_site_figure,
    make_size_figure,
    make_task_figure,
)
from tests.support.figure_contents import figure_text, marks, tooltips
from tests.support.report_sample import sample

MODELS = ("fam-100m", "fam-400m", "fam-2b")


def draw_size(critical, retain):
    return make_size_figure("size", critical, retain)


def test_every_site_has_its_number_and_its_interval(results):
    figure = make_site_figure(results.critical, 0.99)
    for row in results.critical.to_dict("records"):
        label = f"{100 * row['sparsity']:.1f}% ({100 * row['low']:.1f}–{100 * row['high']:.1f}%)"
        assert [row["site"], label] in figure.numbers.rows
        assert f"{row['site']}: {label}" in figure.panels[0].description
    assert len(marks(figure.panels[0], "e")) == len(marks(figure.panels[0], "m")) == 5


def test_lower_bounds_and_missing_intervals_are_drawn_as_such():
    critical = sample(models=MODELS, sites=("input",)).critical.assign(low=None, high=None)
    critical["status"] = ["crossed", "crossed", "right-censored"]
    figure = make_model_figure(critical, 0.99)
    assert "≥ 21.6%" in figure_text(figure) and "nan" not in figure.panels[0].content.lower()
    assert len(marks(figure.panels[0], "o")) == 1
    assert "mark a lower bound" in figure_text(figure)


@pytest.mark.parametrize("layers", [[None, [0, 1, 2]], [[0, 1, 2], [3, 4, 5]]])
def test_selections_of_layers_are_panels_of_their_own(layers):
    critical = sample(sites=("input",), points=1, layers=1).critical
    figure = make_site_figure(critical.loc[[0, 0]].assign(layers=layers), 0.99)
    assert len({panel.title for panel in figure.panels}) == 2


def test_the_tasks_of_one_model_are_a_heat_map_of_its_sites():
    results = sample(tasks=("arc_easy", "piqa", "average"))
    figure = make_task_figure(results.critical, 0.99)
    assert figure.numbers.columns == ("Task", "input", "up", "gate", "intermediate", "all_inputs")
    assert [row[0] for row in figure.numbers.rows] == ["arc_easy", "piqa", "average"]
    assert len(marks(figure.panels[0], "hc")) == 15


def test_the_tasks_of_several_models_are_a_heat_map_of_the_models():
    results = sample(models=MODELS, tasks=("arc_easy", "piqa"), sites=("input", "gate"))
    figure = make_task_figure(results.critical, 0.99)
    assert figure.numbers.columns == ("Task", *MODELS)
    assert [panel.title for panel in figure.panels] == ["input", "gate"]
    text = figure_text(figure)
    for row in results.critical.to_dict("records"):
        assert f"{100 * row['sparsity']:.1f}%" in text
        assert f"{100 * row['low']:.1f}–{100 * row['high']:.1f}%" in text


def test_sizes_have_a_line_per_family_and_a_panel_per_site():
    results = sample(models=MODELS)
    figure = draw_size(results.critical, 0.99)
    assert [panel.title for panel in figure.panels] == ["input", "up", "gate", "intermediate", "all_inputs"]
    assert list(figure.legend) == ["SmolLM2-Instruct"]
    assert ["fam-100m", "135 M", "gate", "16.0%", "14.8–17.4%"] in figure.numbers.rows
    assert "self_prediction" in figure.heading
    assert [text for text in tooltips(figure) if text.endswith("135 M parameters")]


def test_a_mixture_of_experts_is_drawn_at_its_active_and_at_all_its_parameters():
    critical = sample(models=MODELS, sites=("input",)).critical
    assert not marks(draw_size(critical, 0.99).panels[0], "o")
    is_last_model = critical["model"] == MODELS[-1]
    critical.loc[is_last_model, "family"] = "fam (MoE)"
    critical.loc[is_last_model, "active_parameters"] = 100_000_000
    figure = draw_size(critical, 0.99)
    assert "fam (MoE)" in figure.legend and "active parameters" in figure_text(figure)
    assert len(marks(figure.panels[0], "o")) == 1
    assert [text for text in tooltips(figure) if text.endswith("100 M active parameters")]


def test_lower_bounds_of_sizes_are_explained():
    critical = sample(models=MODELS, sites=("input",)).critical.assign(low=None, high=None)
    critical["status"] = ["crossed", "crossed", "right-censored"]
    assert "lower bounds" in figure_text(draw_size(critical, 0.99))


@pytest.mark.parametrize("draw", [make_model_figure, make_task_figure, draw_size, make_site_figure])
def test_an_error_is_raised_if_there_is_nothing_to_draw(draw):
    critical = sample(models=MODELS).critical.assign(sparsity=float("nan"))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(critical, 0.99)


def test_differences_are_drawn_around_0():
    sites = (
        SiteDifference("input", CurveDifference("instruct", 0.05, 0.01, 0.09)),
        SiteDifference("gate", CurveDifference("instruct", -0.02, -0.07, 0.03)),
    )
    group = PairGroup("model", Conditions("average"), None, (PairComparison("base", "instruct", sites),))
    figure = make_difference_figure("differences", group)
    assert [panel.title for panel in figure.panels] == ["base − instruct"]
    assert "input: +5.0 (+1.0 to +9.0)" in figure.panels[0].description
    assert len(marks(figure.panels[0], "th")) == 1
    assert "on the same examples" in figure_text(figure)
