"""Charts by layer, and by denoising step and layer."""

from sparsedial.analysis.results import compute_results
from sparsedial.report.charts.layer_charts import draw_layer_profile, draw_step_map
from tests.support.chart_contents import chart_data
from tests.support.made_up_studies import Model, study


def test_the_layer_profile_holds_the_numbers_with_one_line_per_vector(results):
    data = chart_data(draw_layer_profile(results.layers))
    assert sorted(row["sparsity"] for row in data) == sorted(results.layers["sparsity"])
    assert {row["line"] for row in data} >= {"input", "all_inputs: input", "all_inputs: intermediate"}


def test_the_vectors_of_a_site_share_its_colour_and_differ_in_their_dashes(results):
    line, _ = draw_layer_profile(results.layers).to_dict()["layer"]
    scales = {}
    for channel in ("color", "strokeDash"):
        scale = line["encoding"][channel]["scale"]
        scales[channel] = dict(zip(scale["domain"], map(str, scale["range"]), strict=True))
    assert scales["color"]["all_inputs: input"] == scales["color"]["all_inputs: intermediate"]
    assert scales["strokeDash"]["all_inputs: input"] != scales["strokeDash"]["all_inputs: intermediate"]


def test_steps_are_a_map_of_step_and_layer(tmp_path):
    results = compute_results(study(tmp_path, [Model("dlm", 10_000_000, layers=3, steps=5)], ("piqa",), ("input",)))
    data = chart_data(draw_step_map(results.steps))
    assert sorted((row["step"], row["layer"]) for row in data) == [(step, n) for step in range(5) for n in range(3)]
    assert sorted(row["sparsity"] for row in data) == sorted(results.steps["sparsity"])
