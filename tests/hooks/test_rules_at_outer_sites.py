"""Rules that read weights or a calibration, at sites outside of the FFNs."""

import pytest
import torch

import sparsedial as sd

SITES = ["attention_input", "attention_output", "lm_head_input"]


@pytest.mark.parametrize("site", SITES)
def test_weighted_scores_use_the_projections_that_read_the_vector(own_llama, site):
    rule = sd.WeightedTopK(0.5)
    [vector] = [
        vector for vector in sd.find_ffns(own_llama).outer.at_site(site) if vector.layer == _first(own_llama, site)
    ]
    norms = torch.cat([projection.weight for projection in vector.projections]).double().norm(dim=0)
    x = torch.randn(1, len(norms))
    kept = rule.bind(vector, site, None).keep_mask(x.abs().double())
    assert kept.sum() == len(norms) // 2
    scores = x.abs().double() * norms
    assert scores[kept].min() >= scores[~kept].max()


@pytest.mark.parametrize("site", SITES)
def test_thresholds_are_calibrated_at_the_site(own_llama, site):
    rule = sd.Threshold(0.5, tokens=96)
    calibration = sd.calibrate(own_llama, rule=rule, site=site)
    with sd.sparsify(own_llama, site, rule, calibration=calibration) as sparsifier:
        own_llama(torch.randint(3, 90, (2, 20)))
    assert 0.2 < sparsifier.sparsity() < 0.8


def _first(model, site):
    return sd.find_ffns(model).outer.at_site(site)[0].layer
