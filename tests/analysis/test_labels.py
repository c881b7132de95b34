"""Display names are short and unique."""

from dataclasses import replace

from sparsedial.analysis.labels import model_family, name_models
from sparsedial.analysis.results import compute_results
from sparsedial.study.records import ModelLabel
from tests.support.made_up_studies import SMALL, study
from tests.support.trial_records import make_record

ONE_TASK = {"tasks": ("piqa",), "sites": ("input",)}


def test_models_of_one_name_differ_by_dtype_or_else_by_weights(tmp_path):
    variants = [SMALL, replace(SMALL, dtype="bfloat16"), replace(SMALL, weights="b" * 64)]
    stores = [study(tmp_path / str(n), [variant], **ONE_TASK) for n, variant in enumerate(variants)]
    names = compute_results(stores).critical["model"].tolist()
    assert len(set(names)) == 3
    assert "fam-100m (bfloat16)" in names
    assert any(name.startswith("fam-100m (float32, weights bbbbbbbb") for name in names)
    assert compute_results(stores[:1]).critical["model"].tolist() == ["fam-100m"]


def test_a_directory_is_called_by_its_last_part():
    record = make_record()
    record = replace(record, model=replace(record.model, name="/some/where/tiny", origin="directory"))
    assert list(name_models([record]).values()) == ["tiny"]


def test_the_same_model_under_two_names_is_one_model(tmp_path):
    names = ("hub/fam-100m", "fam-copy")
    stores = [
        study(tmp_path / str(n), [replace(SMALL, name=name, weights="c" * 64)], **ONE_TASK)
        for n, name in enumerate(names)
    ]
    assert compute_results(stores).critical["model"].tolist() == ["hub/fam-100m"]


def test_the_family_of_the_record_takes_precedence():
    assert model_family(ModelLabel("x-1b", "hub", 1, 1, "cpu", family="llama")) == "llama"
    assert model_family(ModelLabel("x-8x7B", "hub", 46, 13, "cpu")) == "x (MoE)"
