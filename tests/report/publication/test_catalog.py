"""Every figure that the results allow is drawn, and the others are named with what they need."""

from dataclasses import replace

import pandas as pd

from sparsedial.analysis.references.comparison import compare_with_references
from sparsedial.report.publication.catalog import KINDS, make_publication_figures, make_reference_figures
from sparsedial.report.publication.reference_rows import References
from tests.support.chart_contents import chart_text
from tests.support.references import reference, value
from tests.support.report_sample import sample


def kind_of(name):
    """Return the kind of a figure."""
    return max((kind for kind in KINDS if name.startswith(kind)), key=len)


def test_all_figures_are_drawn_from_results_that_have_everything_but_the_overlap(results, figures):
    drawn = make_publication_figures(results, References())
    assert {kind_of(name) for name in figures} == set(KINDS) - {"denoising-overlap"}
    assert set(drawn.not_drawn) == {"denoising-overlap"}
    assert "diffusion model" in drawn.not_drawn["denoising-overlap"]
    assert len({figure.name for figure in drawn.figures}) == len(drawn.figures)


def test_figures_that_the_results_do_not_allow_say_what_they_need():
    drawn = make_publication_figures(sample(points=2, layers=1), References())
    assert [figure.name for figure in drawn.figures] == ["retention-by-site", "sites"]
    assert set(drawn.not_drawn) == set(KINDS) - {"retention-by-site", "sites"}
    assert "several sizes" in drawn.not_drawn["critical-over-size"]
    assert "mixture of experts" in drawn.not_drawn["experts"]
    assert "generates text" in drawn.not_drawn["generation"]


def test_without_points_and_critical_sparsities_nothing_is_drawn():
    results = sample(points=1, layers=1)
    empty = replace(
        results, points=pd.DataFrame(), critical=results.critical.assign(sparsity=None, low=None, high=None)
    )
    drawn = make_publication_figures(empty, References())
    assert drawn.figures == () and set(drawn.not_drawn) == set(KINDS)


def test_tasks_of_experts_have_figures_of_their_own(results):
    experts = pd.concat([results.experts, results.experts.assign(task="denoising")])
    drawn = make_publication_figures(replace(results, experts=experts), References())
    names = [figure.name for figure in drawn.figures if figure.name.startswith("experts")]
    assert names == ["experts-1-mix-7b-a1b-average", "experts-2-mix-7b-a1b-denoising"]
    captions = [figure.description for figure in drawn.figures if figure.name in names]
    assert "average over tasks" in captions[0] and "task denoising" in captions[1]


def test_captions_define_what_is_drawn(figures):
    assert "99% of the dense score" in figures["sites"].description
    assert all(figure.description.endswith(".") for figure in figures.values())
    assert "fam-100m" in figures["retention-by-site-2-fam-100m"].description


def test_a_figure_has_no_title_because_the_caption_is_beside_it(figures):
    assert all("title" not in figure.chart.to_dict() for figure in figures.values())


def test_references_are_named_in_the_captions_and_in_the_legends():
    results = sample(models=("fam-100m",), tasks=("piqa",), points=2, layers=1)
    known = reference(value(), name="Their group")
    drawn = make_publication_figures(results, References((known,), compare_with_references(results, [known])))
    (sites,) = [figure for figure in drawn.figures if figure.name == "sites"]
    assert sites.description.endswith("Open marks are values of Their group.")
    assert "Their group" in chart_text(sites.chart)


def test_the_page_gets_figures_only_with_a_comparison():
    results = sample(models=("fam-100m",), tasks=("piqa",), points=2, layers=1)
    assert make_reference_figures(results) == []
    comparison = compare_with_references(results, [reference(value())])
    figures = make_reference_figures(replace(results, reference=comparison))
    assert [figure.name for figure in figures] == ["sites"]
