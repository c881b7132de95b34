"""The figure of layers holds the numbers as given, for every measured p."""

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.figures.layer_figures import make_layer_figure
from sparsedial.report.figures.profile_data import read_profiles
from tests.support.figure_contents import coordinates, marks
from tests.support.made_up_studies import SMALL, study


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Results of a study with four values of p."""
    return compute_results(study(tmp_path_factory.mktemp("layers"), [SMALL], ("piqa",), ("input", "all_inputs")))


def test_there_is_one_line_per_vector_with_the_numbers_as_given(results):
    figure = make_layer_figure("layers", results.layers, read_profiles(results).layers)
    assert list(figure.legend)[-2:] == ["all_inputs: input", "all_inputs: intermediate"]
    assert len(marks(figure.panels[0], "l")) == 6
    gate = results.layers[(results.layers["site"] == "gate") & (results.layers["layer"] == 7)]
    column = figure.numbers.columns.index("gate")
    assert figure.numbers.rows[7][column] == f"{100 * gate['sparsity'].iloc[0]:.1f}%"
    assert figure.p_values == ()


def test_the_vectors_of_a_site_share_its_colour_and_differ_in_their_dashes(results):
    legend = make_layer_figure("layers", results.layers, read_profiles(results).layers).legend
    first, second = legend["all_inputs: input"], legend["all_inputs: intermediate"]
    assert first.colour == second.colour and first.dash != second.dash


def test_the_page_holds_every_measured_p_and_the_axis_has_room_for_all(measured):
    profiles = read_profiles(measured).layers
    figure = make_layer_figure("layers", measured.layers, profiles)
    assert figure.p_values == (0.98, 0.95, 0.9, 0.8)
    (profile, *_) = profiles.to_json()
    assert profile["p"] == [0.98, 0.95, 0.9, 0.8] and profile["shown"] in profile["p"]
    highest = max(max(values) for entry in profiles.to_json() for values in entry["sparsity"])
    assert float(figure.panels[0].layout["data-y"].split()[1]) >= highest


def test_the_shown_line_is_that_of_the_nearest_p(measured):
    profiles = read_profiles(measured).layers
    (panel,) = make_layer_figure("layers", measured.layers, profiles).panels
    low, high, start, end = map(float, panel.layout["data-y"].split())
    for path in marks(panel, "l"):
        profile = profiles.to_json()[int(path.get("data-k"))]
        expected = profile["sparsity"][profile["p"].index(profile["shown"])]
        heights = [low + (y - start) / (end - start) * (high - low) for _, y in coordinates(path)]
        assert heights == pytest.approx(expected, abs=0.002)


def test_an_error_is_raised_if_there_is_nothing_to_draw(results):
    with pytest.raises(ValueError, match="nothing to draw"):
        make_layer_figure("layers", results.layers.assign(sparsity=float("nan")), read_profiles(results).layers)
