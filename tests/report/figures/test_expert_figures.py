"""Figures of experts: those without data are not drawn, and outliers have labels."""

import pandas as pd
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.figures.expert_figures import make_band_figure, make_histogram_figure, make_routing_figure
from sparsedial.report.figures.profile_data import read_profiles
from tests.support.figure_contents import figure_text, marks, tooltips
from tests.support.made_up_studies import Model, study

MIXTURE = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of a mixture of experts that was measured beside a dense model."""
    models = [MIXTURE, Model("mix-1b", 1_000_000_000)]
    return compute_results(study(tmp_path_factory.mktemp("mixture"), models, ("piqa",), ("input", "all_inputs")))


@pytest.fixture
def profiles(results):
    """The numbers of experts at every measured p."""
    return read_profiles(results).experts


def test_the_band_is_over_the_experts_that_received_tokens(results, profiles):
    figure = make_band_figure("experts", results.experts, profiles)
    assert [panel.title for panel in figure.panels] == ["input", "all_inputs: input", "all_inputs: intermediate"]
    assert all(len(marks(panel, "band")) == len(marks(panel, "l")) == 1 for panel in figure.panels)
    rows = results.experts[(results.experts["site"] == "input") & (results.experts["layer"] == 1)]
    numbers = [f"{100 * value:.1f}%" for value in rows["sparsity"].agg(["min", "mean", "max"])]
    assert figure.numbers.rows[1] == ["1", *numbers]
    assert "(9 of 72)" in figure_text(figure)
    assert figure.p_values == (0.98, 0.95, 0.9, 0.8)


def test_one_layer_is_drawn_without_an_area(results, profiles):
    figure = make_band_figure("experts", results.experts[results.experts["layer"] == 1], profiles)
    assert not marks(figure.panels[0], "band") and len(marks(figure.panels[0], "i")) == 1
    assert "nan" not in figure.panels[0].content.lower()


def test_the_histogram_counts_every_expert_with_data(results, profiles):
    figure = make_histogram_figure("experts-histogram", results.experts, profiles)
    assert sum(int(row[1]) for row in figure.numbers.rows) == 3 * 3 * 7
    assert all(sum(bins) == 3 * 7 for entry in profiles.to_json() for bins in entry["histogram"])


def test_outliers_are_ringed_and_labelled_and_no_point_is_lost(results):
    figure = make_routing_figure("experts-routing", results.experts)
    assert [row[0] for row in figure.numbers.rows] == ["layer 1, expert 1"] * 3
    assert all(len(marks(panel, "o")) == 1 for panel in figure.panels)
    assert "1/1" in figure_text(figure)
    assert len(tooltips(figure)) >= 3 * 3 * 7 - 12  # points that look the same are drawn once


def test_thousands_of_experts_fit_on_a_page(results):
    """A Qwen3-30B has 48 x 128 of them."""
    many = pd.concat([results.experts.assign(layer=results.experts["layer"] + 3 * n) for n in range(90)])
    figure = make_routing_figure("experts-routing", many)
    assert sum(len(panel.content) for panel in figure.panels) < 400_000


def test_without_counts_of_tokens_there_is_no_routing_chart(results):
    with pytest.raises(ValueError, match="there are no counts of tokens"):
        make_routing_figure("experts-routing", results.experts.assign(share=float("nan")))
