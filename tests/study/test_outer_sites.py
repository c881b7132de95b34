"""Studies at the sites outside of the FFNs."""

from dataclasses import replace

import pytest

import sparsedial as sd
from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.analysis.results import compute_results
from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.projection_input import OUTER_SITES
from sparsedial.report.critical_table import SKIPPABLE_MACS, SKIPPABLE_WEIGHTS, make_critical_table
from sparsedial.study.records import TrialRecord
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from tools.tiny_models import build_tiny_model


@pytest.fixture(scope="module")
def store(model_dir, tmp_path_factory):
    spec = StudySpec(
        models=(str(model_dir),),
        sites=(*OUTER_SITES, "all_inputs"),
        values=(0.9, 0.5),
        task_options={"sequences": 8, "length": 6, "batch": 4},
        dtype="float32",
    )
    return run_study(spec, tmp_path_factory.mktemp("study"))


def weights_of(llama, site):
    ffns = sd.find_ffns(llama)
    if site == "all_inputs":
        return sum(sum(ffn.macs) for ffn in ffns)
    return sum(module.weight.numel() for vector in ffns.outer.at_site(site) for module in vector.projections)


@pytest.mark.parametrize("site", [*OUTER_SITES, "all_inputs"])
def test_a_trial_states_its_share_of_all_weights(store, llama, site):
    records = [record for record in store.trials() if record.identity.site == site]
    assert len(records) == 2
    read = sd.find_ffns(llama).weights_per_token
    for record in records:
        assert record.weight_share == pytest.approx(weights_of(llama, site) / read)
        assert sum(record.skippable_macs.values()) == pytest.approx(1)
        assert 0 < record.result.dropped < record.result.total
        assert TrialRecord.from_json(record.to_json()) == record


def test_the_version_of_the_discovery_is_in_the_key_of_new_sites_only(store):
    versions = {record.identity.site: record.identity.site_version for record in store.trials()}
    assert versions == {None: None, "all_inputs": None, **dict.fromkeys(OUTER_SITES, 1)}


def test_a_record_without_the_share_can_be_read(store):
    record = next(record for record in store.trials() if record.identity.site == "all_inputs")
    data = replace(record, weight_share=None).to_json()
    assert "weight_share" not in data
    assert TrialRecord.from_json(data).weight_share is None
    assert data["key"] == record.key


def test_the_tables_state_the_share_of_all_weights(store):
    results = compute_results(store)
    critical = results.critical.set_index("site")
    for site in (*OUTER_SITES, "all_inputs"):
        row = critical.loc[site]
        share = next(record.weight_share for record in store.trials() if record.identity.site == site)
        assert row["skippable_weights_high"] == pytest.approx(share * row["skippable_macs_high"])
    table = make_critical_table(read_critical_findings(results.critical).headline, results.retain)
    assert table.columns.index(SKIPPABLE_WEIGHTS) == table.columns.index(SKIPPABLE_MACS) + 1


def test_a_table_of_trials_without_the_share_has_no_column_for_it(store):
    results = compute_results(store)
    without = results.critical.drop(columns=[name for name in results.critical if name.startswith("skippable_weights")])
    table = make_critical_table(read_critical_findings(without).headline, results.retain)
    assert SKIPPABLE_WEIGHTS not in table.columns


def test_a_model_without_the_site_is_an_error_before_any_trial(tmp_path):
    model = build_tiny_model("rwkv")
    with pytest.raises((ModelError, SpecError), match="no site 'attention_input'"):
        sd.measure(model, sites="attention_input", p=[0.5], progress=False, out=tmp_path / "study")
    assert not list((tmp_path / "study").glob("trials/*/*.json"))
