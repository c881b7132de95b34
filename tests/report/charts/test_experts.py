"""Charts of experts: those without data are not drawn, and outliers have labels."""

import pandas as pd
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.charts.experts import draw_expert_band, draw_expert_histogram, draw_expert_routing
from sparsedial.report.charts.rendering import to_svg
from tests.support.chart_contents import chart_data, chart_text, svg_text
from tests.support.made_up_studies import Model, study

MIXTURE = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """The experts of a mixture of experts that was measured beside a dense model."""
    models = [MIXTURE, Model("mix-1b", 1_000_000_000)]
    store = study(tmp_path_factory.mktemp("mixture"), models, ("piqa",), ("input", "all_inputs"))
    return compute_results(store).experts


def test_the_band_is_over_the_experts_that_received_tokens(experts):
    chart = draw_expert_band(experts)
    data = chart_data(chart)
    assert len(data) == 3 * 3 * 7  # vectors, layers, experts with data
    assert {row["panel"] for row in data} == {"input", "all_inputs: input", "all_inputs: intermediate"}
    area, line = chart.to_dict()["spec"]["layer"]
    assert (area["encoding"]["y"]["aggregate"], area["encoding"]["y2"]["aggregate"]) == ("min", "max")
    assert line["encoding"]["y"]["aggregate"] == "mean"
    assert "(9 of 72)" in chart_text(chart)


def test_one_layer_is_drawn_without_an_area(experts):
    svg = to_svg(draw_expert_band(experts[experts["layer"] == 1]))
    assert "NaN" not in svg
    assert "lowest to the highest" in svg_text(svg)


def test_the_histogram_counts_every_expert_with_data(experts):
    assert len(chart_data(draw_expert_histogram(experts))) == 3 * 3 * 7


def test_outliers_are_ringed_and_labelled_and_no_point_is_lost(experts):
    chart = draw_expert_routing(experts)
    assert "layer 1, expert 1" in chart_text(chart)
    labelled = [row for row in chart_data(chart) if "label" in row]
    assert [(row["layer"], row["expert"]) for row in labelled] == [(1, 1)] * 3
    data = pd.DataFrame(chart_data(chart))
    for _, row in experts.dropna(subset="sparsity").iterrows():  # each is drawn, or hidden by one that looks the same
        same_sparsity = (data["sparsity"] - row["sparsity"]).abs() < 0.006
        same_share = (data["share"] / row["share"] - 1).abs() < 0.1
        assert (same_sparsity & same_share).any()


def test_thousands_of_experts_fit_on_a_page(experts):
    """A Qwen3-30B has 48 x 128 of them."""
    many = pd.concat([experts.assign(layer=experts["layer"] + 3 * n) for n in range(90)])
    assert len(to_svg(draw_expert_routing(many))) < 400_000


def test_without_counts_of_tokens_there_is_no_routing_chart(experts):
    with pytest.raises(ValueError, match="there are no counts of tokens"):
        draw_expert_routing(experts.assign(share=float("nan")))
