"""The figures of experts and steps: what has no data is not drawn, and outliers have their names."""

from dataclasses import replace

import pandas as pd
import pytest
from made_up_studies import Model, study
from test_figures import rows, text_of

from sparsedial.report import drawing, within
from sparsedial.report.charts import details
from sparsedial.report.tables import tables
from sparsedial.study.results import results

MIXTURE = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A mixture of experts beside a dense model."""
    models = [MIXTURE, Model("mix-1b", 1_000_000_000)]
    return results(study(tmp_path_factory.mktemp("mixed"), models, ("piqa",), ("input", "all_inputs")))


def test_the_band_is_over_the_experts_that_saw_tokens(mixed):
    chart = within.expert_band(mixed.experts)
    drawn = rows(chart)
    assert len(drawn) == 3 * 3 * 7  # vectors, layers, experts with data
    assert {row["panel"] for row in drawn} == {"input", "all_inputs: input", "all_inputs: intermediate"}
    area, line = chart.to_dict()["spec"]["layer"]
    assert (area["encoding"]["y"]["aggregate"], area["encoding"]["y2"]["aggregate"]) == ("min", "max")
    assert line["encoding"]["y"]["aggregate"] == "mean"
    assert "(9 of 72)" in text_of(drawing.to_svg(chart))


def test_one_layer_is_drawn_without_an_area(mixed):
    svg = drawing.to_svg(within.expert_band(mixed.experts[mixed.experts["layer"] == 1]))
    assert "NaN" not in svg and "least to the greatest" in text_of(svg)


def test_the_histogram_counts_every_expert_with_data(mixed):
    assert len(rows(within.expert_histogram(mixed.experts))) == 3 * 3 * 7


def test_outliers_are_ringed_and_named_and_no_point_is_lost(mixed):
    chart = within.expert_routing(mixed.experts)
    assert "layer 1, expert 1" in text_of(drawing.to_svg(chart))
    named = [row for row in rows(chart) if "name" in row]
    assert [(row["layer"], row["expert"]) for row in named] == [(1, 1)] * 3
    seen = mixed.experts.dropna(subset="sparsity")
    drawn = pd.DataFrame(rows(chart))
    for _, row in seen.iterrows():  # each is drawn, or stands behind one that looks the same
        near = (drawn["sparsity"] - row["sparsity"]).abs() < 0.006
        assert (near & ((drawn["share"] / row["share"] - 1).abs() < 0.1)).any()


def test_thousands_of_experts_stay_a_page(mixed):
    """A Qwen3-30B has 48 x 128 of them."""
    many = pd.concat([mixed.experts.assign(layer=mixed.experts["layer"] + 3 * n) for n in range(90)])
    assert len(drawing.to_svg(within.expert_routing(many))) < 400_000


def test_without_counts_of_tokens_there_is_no_routing_figure(mixed):
    with pytest.raises(ValueError, match="no counts of tokens"):
        within.expert_routing(mixed.experts.assign(share=float("nan")))


def test_only_models_with_experts_have_figures_of_them(mixed):
    names = [name for name, _, _ in details(mixed)]
    assert [name for name in names if name.startswith("experts")] == ["experts", "experts-histogram", "experts-routing"]
    assert not any(name.startswith("steps") for name in names)


def test_outlier_experts_are_listed_with_their_definition(mixed):
    (table,) = (table for table in tables(mixed) if table.heading == "Outlier experts")
    assert "1.4826" in table.about and "3 of 72" in table.about
    assert {(row[2], row[3]) for row in table.rows} == {("1", "1")}
    assert {row[0] for row in table.rows} == {"input", "all_inputs: input", "all_inputs: intermediate"}
    none = mixed.experts.assign(outlier=False)
    assert not list(tables(replace(mixed, experts=none, generated=pd.DataFrame())))


def test_steps_are_a_map_of_step_and_layer(tmp_path):
    found = results(study(tmp_path, [Model("dlm", 10_000_000, layers=3, steps=5)], ("piqa",), ("input",)))
    chart = within.step_map(found.steps)
    drawn = rows(chart)
    assert sorted((row["step"], row["layer"]) for row in drawn) == [(s, n) for s in range(5) for n in range(3)]
    assert sorted(row["sparsity"] for row in drawn) == sorted(found.steps["sparsity"])
    assert "steps" in [name for name, _, _ in details(found)]


def test_generated_texts_are_listed_dense_first(tmp_path):
    given = study(tmp_path, [Model("m", 10_000_000)], ("gsm8k",), ("input", "gate"), generates=("gsm8k",))
    (table,) = (table for table in tables(results(given)) if table.heading == "Generated texts")
    assert [row[0] for row in table.rows[:5]] == ["dense", "0.98", "0.95", "0.9", "0.8"]
    assert table.rows[0] == ["dense", "60", "2.0%", "–", "–"]
    assert table.groups[0] == "m · gsm8k · input"
