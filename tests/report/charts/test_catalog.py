"""A report has a figure only where there is something to show."""

from dataclasses import replace

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.charts.catalog import make_comparison_figures, make_detail_figures
from tests.support.chart_contents import chart_data
from tests.support.made_up_studies import Model, study
from tests.support.report_sample import sample

MODELS = ("fam-100m", "fam-400m", "fam-2b")


def figure_names(results):
    """The names of all figures of a report."""
    figures = [*make_comparison_figures(results), *make_detail_figures(results)]
    return [figure.name for figure in figures]


def test_size_is_drawn_only_for_several_sizes():
    assert "size" not in figure_names(sample())
    several = sample(models=MODELS)
    assert "size" in figure_names(several)
    for parameters in (1e8, None):
        critical = several.critical.assign(parameters=parameters)
        assert "size" not in figure_names(replace(several, critical=critical))


def test_tasks_are_drawn_only_if_there_are_several():
    assert "tasks" in figure_names(sample(tasks=("arc_easy", "piqa", "average")))
    assert "tasks" not in figure_names(sample())


def test_several_models_are_compared_by_their_averages_and_self_prediction():
    results = sample(models=MODELS, tasks=("arc_easy", "piqa", "average", "self_prediction"))
    charts = {figure.name: figure.chart for figure in make_comparison_figures(results)}
    assert set(charts) == {"critical", "size-1-average", "size-2-self-prediction", "tasks"}
    assert {row["task"] for row in chart_data(charts["critical"])} == {"average", "self_prediction"}
    assert {row["task"] for row in chart_data(charts["size-1-average"])} == {"average"}


def test_every_model_has_figures_of_its_own():
    figures = list(make_detail_figures(sample(models=("a", "b"), points=2, layers=2)))
    assert [figure.name for figure in figures] == ["retention-1-a", "retention-2-b", "layers-1-a", "layers-2-b"]
    assert [" of a" in figure.description for figure in figures] == [True, False, True, False]


def test_only_models_with_experts_have_figures_of_them(tmp_path):
    mixture = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)
    results = compute_results(study(tmp_path, [mixture, Model("mix-1b", 1_000_000_000)], ("piqa",), ("input",)))
    names = figure_names(results)
    assert [name for name in names if name.startswith("experts")] == ["experts", "experts-histogram", "experts-routing"]
    assert not any(name.startswith("steps") for name in names)


def test_only_models_with_denoising_steps_have_figures_of_them(tmp_path):
    results = compute_results(study(tmp_path, [Model("dlm", 10_000_000, layers=3, steps=5)], ("piqa",), ("input",)))
    assert "steps" in figure_names(results)


@pytest.mark.parametrize("layers", [[None, [0, 1, 2]], [[0, 1, 2], [3, 4, 5]]])
def test_selections_of_layers_are_panels_of_their_own(layers):
    results = sample(sites=("input",), points=1, layers=1)
    critical = results.critical.loc[[0, 0]].assign(layers=layers)
    (figure,) = make_comparison_figures(replace(results, critical=critical))
    assert len({row["panel"] for row in chart_data(figure.chart)}) == 2
