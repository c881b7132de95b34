"""A report has a figure only where there is something to show."""

from dataclasses import replace

from sparsedial.analysis.results import compute_results
from sparsedial.report.figures.catalog import make_comparison_figures, make_model_figures, make_pair_figures
from sparsedial.report.figures.profile_data import read_profiles
from tests.support.made_up_studies import Model, study
from tests.support.report_sample import sample

MODELS = ("fam-100m", "fam-400m", "fam-2b")


def figure_names(results):
    """The names of all figures of a report."""
    figures = list(make_comparison_figures(results))
    for model in make_model_figures(results, read_profiles(results)):
        figures += model.figures
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
    figures = {figure.name: figure for figure in make_comparison_figures(results)}
    assert set(figures) == {"critical", "size-1-average", "size-2-self-prediction", "tasks"}
    titles = {panel.title for panel in figures["critical"].panels}
    assert {title.split(" · ")[0] for title in titles} == {"task average", "self_prediction"}
    assert "task average" in figures["size-1-average"].heading


def test_an_average_of_a_group_without_an_estimate_leaves_no_model_to_compare():
    results = sample(models=MODELS, tasks=("group (2 tasks)", "first", "second"))
    critical = results.critical
    is_member = critical["task"] != "group (2 tasks)"
    critical = critical.assign(
        group=[("group (2 tasks)" if member else None) for member in is_member],
        sparsity=critical["sparsity"].where(is_member),
    )
    assert figure_names(replace(results, critical=critical))[0] == "tasks"


def test_every_model_has_figures_of_its_own():
    results = sample(models=("a", "b"), points=2, layers=2)
    by_model = {}
    for model in make_model_figures(results, read_profiles(results)):
        by_model[model.model] = [figure.name for figure in model.figures]
    assert by_model == {"a": ["retention-1-a", "layers-1-a"], "b": ["retention-2-b", "layers-2-b"]}


def test_two_models_are_put_side_by_side(tmp_path):
    models = [Model("fam-base", 10**8), Model("fam-instruct", 10**8, strength=1.4)]
    results = compute_results(study(tmp_path, models, ("piqa",), ("input",)))
    assert [figure.name for figure in make_pair_figures(results)] == ["differences-1-models", "retention-by-model"]
    assert list(make_pair_figures(sample())) == []


def test_only_models_with_experts_have_figures_of_them(tmp_path):
    mixture = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)
    results = compute_results(study(tmp_path, [mixture, Model("mix-1b", 1_000_000_000)], ("piqa",), ("input",)))
    names = figure_names(results)
    assert [name for name in names if name.startswith("experts")] == ["experts", "experts-histogram", "experts-routing"]
    assert not any(name.startswith("steps") for name in names)


def test_only_models_with_denoising_steps_have_figures_of_them(tmp_path):
    results = compute_results(study(tmp_path, [Model("dlm", 10_000_000, layers=3, steps=5)], ("piqa",), ("input",)))
    assert "steps" in figure_names(results)
