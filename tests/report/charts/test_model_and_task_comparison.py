"""Charts that compare models and tasks hold the numbers as given."""

import pytest

from sparsedial.report.charts.model_and_task_comparison import draw_models, draw_tasks
from tests.support.chart_contents import chart_text
from tests.support.report_sample import sample

MODELS = ("fam-100m", "fam-400m", "fam-2b")


def test_lower_bounds_and_missing_intervals_are_drawn_as_such():
    critical = sample(models=MODELS, sites=("input",)).critical.assign(low=None, high=None)
    critical["status"] = ["crossed", "crossed", "right-censored"]
    text = chart_text(draw_models(critical, 0.99))
    assert "≥ 21.6%" in text and "NaN" not in text


def test_the_tasks_of_one_model_are_a_heat_map_of_its_sites():
    results = sample(tasks=("arc_easy", "piqa", "average"))
    cells = draw_tasks(results.critical, 0.99).to_dict()["layer"][0]["encoding"]
    assert cells["y"]["field"] == "site"
    assert cells["x"]["scale"]["domain"] == ["arc_easy", "piqa", "average"]


def test_the_tasks_of_several_models_are_a_heat_map_of_the_models():
    results = sample(models=MODELS, tasks=("arc_easy", "piqa"), sites=("input", "gate"))
    chart = draw_tasks(results.critical, 0.99)
    assert chart.to_dict()["spec"]["layer"][0]["encoding"]["y"]["field"] == "model"
    text = chart_text(chart)
    for row in results.critical.to_dict("records"):
        assert f"{100 * row['sparsity']:.1f}%" in text
        assert f"{100 * row['low']:.1f}–{100 * row['high']:.1f}%" in text


@pytest.mark.parametrize("draw", [draw_models, draw_tasks])
def test_an_error_is_raised_if_there_is_nothing_to_draw(draw):
    critical = sample(models=MODELS).critical.assign(sparsity=float("nan"))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(critical, 0.99)
