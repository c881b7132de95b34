"""The chart over model sizes holds the numbers as given."""

import pandas as pd
import pytest

from sparsedial.report.charts.model_size import draw_model_sizes
from tests.support.chart_contents import chart_data, chart_text
from tests.support.report_sample import sample

MODELS = ("fam-100m", "fam-400m", "fam-2b")


def test_it_has_the_numbers_a_line_per_family_and_a_panel_per_site():
    results = sample(models=MODELS)
    chart = draw_model_sizes(results.critical, 0.99)
    data = chart_data(chart)
    expected = results.critical.sort_values(["model", "site"])
    drawn = pd.DataFrame(data).sort_values(["model", "site"])
    for name in ("sparsity", "low", "high", "parameters"):
        assert drawn[name].tolist() == expected[name].tolist()
    assert {row["panel"] for row in data} == {"input", "up", "gate", "intermediate", "all_inputs"}
    assert chart.to_dict()["spec"]["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"
    text = chart_text(chart)
    assert "95% intervals" in text and "self_prediction" in text


def test_a_mixture_of_experts_is_drawn_at_its_active_and_at_all_its_parameters():
    critical = sample(models=MODELS).critical
    assert "open mark at the active" not in chart_text(draw_model_sizes(critical, 0.99))
    is_last_model = critical["model"] == MODELS[-1]
    critical.loc[is_last_model, "family"] = "fam (MoE)"
    critical.loc[is_last_model, "active_parameters"] = 100_000_000
    text = chart_text(draw_model_sizes(critical, 0.99))
    assert "fam (MoE)" in text and "open mark at the active" in text


def test_lower_bounds_are_explained():
    critical = sample(models=MODELS, sites=("input",)).critical.assign(low=None, high=None)
    critical["status"] = ["crossed", "crossed", "right-censored"]
    assert "lower bounds" in chart_text(draw_model_sizes(critical, 0.99))


def test_an_error_is_raised_if_there_is_nothing_to_draw():
    critical = sample(models=MODELS).critical.assign(sparsity=float("nan"))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_model_sizes(critical, 0.99)
