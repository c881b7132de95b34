"""What a measurement says about the rule of an accelerated model, and where it is stored."""

import json

import pytest

import sparsedial as sd
from sparsedial.acceleration.saved_settings import FILE_NAME
from sparsedial.errors import SpecError

MODEL = "zoo:dense-0.4m"
OPTIONS = {"p": [0.7, 0.95], "sequences": 8, "length": 12, "progress": False, "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the directory of a study with trials with and without the kernels."""
    folder = tmp_path_factory.mktemp("study")
    sd.measure(MODEL, sites=["input", "intermediate"], out=folder, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def result(folder):
    return sd.measure(MODEL, sites=["input", "intermediate"], out=folder, **OPTIONS)


def test_the_evidence_has_the_critical_sparsity_and_the_nearest_point(result, folder):
    evidence = sd.make_evidence(result, "input", sd.TopP(0.9))
    [critical] = evidence["critical"]
    row = result.critical[result.critical.site == "input"].iloc[0]
    assert (critical["sparsity"], critical["low"], critical["high"]) == (row.sparsity, row.low, row.high)
    [point] = evidence["nearest_points"]
    assert point["p"] == 0.95 and 0 < point["sparsity"] < 1
    assert evidence["study"] == str(folder)
    assert (evidence["accelerated"], evidence["when_slower"], evidence["retain"]) == (False, "mask", 0.99)
    assert evidence["machine"]["cores"] >= 1 and evidence["versions"]["torch"]
    json.dumps(evidence, allow_nan=False)


def test_the_directory_of_a_study_gives_the_same_evidence(result, folder):
    for rule in (None, sd.TopP(0.9)):
        assert sd.make_evidence(folder, "input", rule) == sd.make_evidence(result, "input", rule)


def test_trials_on_the_kernels_are_named(tmp_path):
    result = sd.measure(MODEL, sites="input", accelerated=True, **OPTIONS)
    evidence = result.make_evidence("input", sd.TopP(0.7))
    assert evidence["accelerated"] and evidence["study"] is None
    assert evidence["critical"][0]["rule"] == "top_p (accelerated)"


def test_what_was_not_measured_raises_an_error(result):
    with pytest.raises(SpecError, match="nothing was measured at gate: expected one of input with top_p, intermediate"):
        sd.make_evidence(result, "gate")
    with pytest.raises(SpecError, match="nothing was measured at input with top_k"):
        sd.make_evidence(result, "input", sd.TopK(0.5))


def test_a_measurement_is_saved_with_the_model_and_survives_a_second_save(result, tmp_path):
    model, _ = sd.load_model(MODEL, device="cpu", dtype="float32")
    with sd.accelerate(model, "input", sd.TopP(0.9)) as fast:
        fast.save_pretrained(tmp_path / "first", evidence=result)
    loaded, _ = sd.load_model(str(tmp_path / "first"), device="cpu", dtype="float32")
    loaded.save_pretrained(tmp_path / "second")
    for name in ("first", "second"):
        saved = json.loads((tmp_path / name / FILE_NAME).read_text())
        assert saved["evidence"] == json.loads(json.dumps(result.make_evidence("input", sd.TopP(0.9))))
    assert loaded.evidence["nearest_points"][0]["p"] == 0.95


def test_rules_that_differ_between_layers_have_the_evidence_of_the_site(result, tmp_path):
    model, _ = sd.load_model(MODEL, device="cpu", dtype="float32")
    layers = len(sd.find_ffns(model))
    rules = {layer: sd.TopP(0.9 if layer else 0.8) for layer in range(layers)}
    with sd.accelerate(model, "input", rules) as fast:
        fast.save_pretrained(tmp_path, evidence=result)
    saved = json.loads((tmp_path / FILE_NAME).read_text())
    assert "nearest_points" not in saved["evidence"]
    assert saved["evidence"]["critical"][0]["task"] == "self_prediction"
