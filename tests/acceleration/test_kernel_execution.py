"""Measurements on the kernels."""

import pytest
import torch

import sparsedial as sd
from sparsedial.acceleration.kernel_execution import run_on_kernels
from sparsedial.analysis.results import compute_results
from sparsedial.errors import SparsedialError
from sparsedial.study.store import Store

MODEL = "zoo:dense-0.4m"
OPTIONS = {"p": [0.7], "sequences": 8, "length": 12, "progress": False, "device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_token_has_the_bits_of_its_decode_step(make_model, dtype):
    model = make_model(dtype=dtype)
    mlp = model.model.layers[0].mlp
    x = torch.randn(2, 13, 40).to(dtype)
    ffns = sd.find_ffns(model)
    with torch.no_grad():
        with run_on_kernels(model, ffns), sd.sparsify(model, "all_inputs", sd.TopP(0.7), ffns=ffns):
            together = mlp(x)
        with sd.accelerate(model, "all_inputs", sd.TopP(0.7)):
            one_by_one = torch.stack([mlp(token[None]) for token in x.flatten(0, 1)])
    assert torch.equal(together.flatten(0, 1), one_by_one.flatten(0, 1))
    assert not any("forward" in vars(module) for module in model.modules())


def test_measure_gives_the_same_curve_under_another_key(tmp_path):
    sites = ["input", "all_inputs"]
    plain = sd.measure(MODEL, sites=sites, out=tmp_path / "plain", **OPTIONS)
    accelerated = sd.measure(MODEL, sites=sites, out=tmp_path / "accelerated", accelerated=True, **OPTIONS)
    for site in sites:
        assert accelerated.curve(site).sparsity.tolist() == pytest.approx(plain.curve(site).sparsity.tolist(), abs=1e-4)
        assert accelerated.curve(site).retention.tolist() == pytest.approx(
            plain.curve(site).retention.tolist(), abs=1e-3
        )
    keys = [{path.name for path in (tmp_path / name / "trials").rglob("*.json")} for name in ("plain", "accelerated")]
    assert len(keys[0] & keys[1]) == 1  # the dense trial
    joined = compute_results([Store(tmp_path / name) for name in ("plain", "accelerated")])
    assert joined.problems == []
    for rule, alone in (("top_p", plain), ("top_p (accelerated)", accelerated)):
        points = joined.points[joined.points["rule"] == rule]
        assert sorted(points["sparsity"]) == sorted(alone.points["sparsity"])


def test_a_study_without_the_kernels_in_the_same_directory_shows_its_own_trials_only(tmp_path):
    for accelerated in (True, False):
        result = sd.measure(MODEL, sites="input", out=tmp_path, accelerated=accelerated, **OPTIONS)
        assert len(result.points) == 1
        assert ("accelerated" in result.points["rule"].item()) == accelerated
    assert result.results.provenance["trials of other settings, not shown"] == 1


def test_the_sites_are_those_of_the_kernels(tmp_path):
    result = sd.measure(MODEL, out=tmp_path, accelerated=True, **OPTIONS)
    assert set(result.critical.site) == {"input", "intermediate", "all_inputs"}
    with pytest.raises(SparsedialError, match="site 'gate': accelerated trials are run at input, intermediate"):
        sd.measure(MODEL, sites="gate", accelerated=True, **OPTIONS)
