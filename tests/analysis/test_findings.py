"""The statements that results support."""

from dataclasses import replace

import pandas as pd

from sparsedial.analysis.finding_records import BestSiteCount, Conditions
from sparsedial.analysis.findings import compute_findings
from sparsedial.analysis.results import compute_results
from sparsedial.analysis.study_provenance import ModelOrigin, find_origins
from tests.support.made_up_studies import Model, study
from tests.support.report_sample import sample, site_differences

MODELS = ("fam-100m", "fam-400m", "fam-2b")


def test_the_sites_of_one_model_are_compared():
    findings = compute_findings(sample())
    (model,) = findings.models
    assert (model.best.site, model.site_count, model.rivals) == ("intermediate", 5, ())
    assert model.most_skippable.site == "all_inputs"
    assert model.scope == Conditions("self_prediction")
    assert findings.best_sites == () and findings.size_trends == ()


def test_sites_whose_interval_reaches_the_best_one_are_rivals():
    (model,) = compute_findings(sample(sites=("input", "up", "gate"))).models
    assert model.best.site == "up"
    assert model.rivals == ("input",)  # gate reaches 17.4%, up starts at 17.8%


def test_sites_without_a_tested_difference_are_neither_rivals_nor_excluded():
    results = replace(sample(models=MODELS, sites=("input", "intermediate")), differences=pd.DataFrame())
    findings = compute_findings(results)
    assert {(model.rivals, model.untested) for model in findings.models} == {((), 1)}
    (tally,) = findings.best_sites
    assert tally.counts == (BestSiteCount("intermediate", 3, 0),)


def test_unknown_shares_of_macs_give_no_statement():
    results = sample(sites=("input", "up"))
    (model,) = compute_findings(replace(results, critical=results.critical.assign(skippable_macs=None))).models
    assert model.most_skippable is None


def test_rows_without_a_critical_sparsity_are_left_out():
    results = sample(sites=("input", "intermediate"))
    results.critical.loc[1, ["sparsity", "low", "high"]] = float("nan")
    (model,) = compute_findings(results).models
    assert (model.best.site, model.site_count) == ("input", 1)
    assert compute_findings(replace(results, critical=pd.DataFrame())).models == ()


def test_a_row_with_an_interval_but_no_estimate_counts():
    results = sample(sites=("input", "intermediate"))
    results.critical.loc[1, ["sparsity", "low", "high"]] = [float("nan"), 0.0, 0.78]
    (model,) = compute_findings(replace(results, differences=site_differences(results.critical))).models
    assert (model.best.site, model.site_count) == ("input", 2)
    assert model.rivals == ("intermediate",)


def test_a_model_is_represented_by_its_average():
    findings = compute_findings(sample(models=MODELS, tasks=("piqa", "average"), sites=("input",)))
    assert [(model.model, model.scope.task) for model in findings.models] == [(name, "average") for name in MODELS]
    assert findings.are_estimates and findings.decided == findings.models and findings.undecided == ()


def test_the_best_sites_are_counted_over_models():
    results = sample(models=MODELS, sites=("up", "gate", "intermediate"))
    critical = results.critical
    is_close = (critical["model"] == "fam-2b") & (critical["site"] == "up")
    critical.loc[is_close, ["sparsity", "low", "high"]] = [0.9, 0.2, 0.95]
    (finding,) = compute_findings(replace(results, differences=site_differences(critical))).best_sites
    assert finding.model_count == 3
    assert finding.counts == (BestSiteCount("intermediate", 2, 2), BestSiteCount("up", 1, 0))


def test_models_with_one_site_are_not_counted():
    assert compute_findings(sample(models=MODELS, sites=("up",))).best_sites == ()


def test_the_answer_is_about_the_site_with_the_highest_lower_end_if_an_interval_is_wide():
    results = sample(sites=("input", "intermediate"))
    critical = results.critical.assign(low=[0.168, 0.0], high=[0.194, 0.7], is_wide=[False, True])
    (model,) = compute_findings(replace(results, critical=critical)).models
    assert (model.headline.site, model.best.site) == ("input", "intermediate")
    assert (model.most_skippable.site, model.headline.answer) == ("intermediate", "estimate")
    undecided = critical.assign(low=0.0, skippable_macs_low=0.0)
    (model,) = compute_findings(replace(results, critical=undecided)).models
    assert (model.headline.answer, model.most_skippable) == ("undecided", None)


def test_rules_are_part_of_the_scope_only_if_they_differ():
    results = sample(sites=("input",))
    other = results.critical.assign(rule="top_k", layers=[[0, 1]])
    findings = compute_findings(replace(results, critical=pd.concat([results.critical.assign(layers=None), other])))
    scopes = [model.scope for model in findings.models]
    assert scopes == [Conditions("self_prediction", "top_p"), Conditions("self_prediction", "top_k", "0–1")]


def test_size_trends_are_those_of_the_averages(tmp_path):
    models = [Model("fam-100m", 100_000_000), Model("fam-1b", 1_000_000_000, strength=1.4)]
    results = compute_results(study(tmp_path, models))
    (finding,) = compute_findings(results).size_trends
    assert (finding.family, finding.scope) == ("fam", Conditions("average"))
    assert (finding.smallest, finding.largest) == (1e8, 1e9)
    assert [slope.site for slope in finding.slopes] == ["input", "intermediate"]
    trends = results.trends[results.trends["task"] == "average"].set_index("site")
    for slope in finding.slopes:
        assert (slope.slope, slope.verdict) == (trends.loc[slope.site, "slope"], trends.loc[slope.site, "verdict"])
    assert finding.has_lower_bounds == bool(trends["censored"].any())


def test_the_origin_of_each_model_is_found(tmp_path):
    results = compute_results(study(tmp_path, [Model("fam-100m", 100_000_000)], ("piqa",), ("input",)))
    assert find_origins(results.provenance) == (ModelOrigin("fam-100m", "hub"),)
    assert find_origins({}) == ()


def test_sites_outside_of_the_ffns_are_compared_by_their_share_of_all_weights():
    results = sample(sites=("input", "all_inputs"))
    critical = results.critical.assign(site=["all_inputs", "lm_head_input"])
    weights = {"skippable_weights": [0.1, 0.3], "skippable_weights_low": 0.05, "skippable_weights_high": 0.4}
    critical = critical.assign(skippable_macs=[0.5, 0.4], **weights)
    (model,) = compute_findings(replace(results, critical=critical)).models
    assert (model.most_skippable.site, model.compares_weights) == ("lm_head_input", True)
    assert model.combined_weights == 0.4
    unknown = critical.assign(skippable_weights=None, skippable_weights_low=None, skippable_weights_high=None)
    (model,) = compute_findings(replace(results, critical=unknown)).models
    assert (model.most_skippable, model.combined_weights) == (None, None)
