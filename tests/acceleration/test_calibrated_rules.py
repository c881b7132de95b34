"""Acceleration with a calibrated rule: static thresholds."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError

RULE = sd.Threshold(0.5, tokens=96)


def test_calibrated_thresholds_are_those_of_sparsify(make_model, tmp_path):
    model = make_model()
    calibration = sd.calibrate(model, rule=RULE, site="all_inputs")
    ids = torch.randint(1, 64, (1, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), sd.sparsify(model, "all_inputs", RULE, calibration=calibration) as sparsifier:
        expected = model(ids).logits
    with sd.accelerate(model, "all_inputs", RULE, calibration=calibration) as fast:
        logits = fast(ids).logits
        report = fast.report()
        fast.save_pretrained(tmp_path)
    assert report.read_share < 0.95
    assert report.table.sparsity.tolist() == pytest.approx(sparsifier.stats().sparsity.tolist())
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    loaded, _ = sd.load_model(str(tmp_path), device="cpu", dtype="float32")
    assert torch.equal(loaded(ids).logits, logits)


def test_a_calibration_of_another_site_is_refused(make_model):
    model = make_model()
    calibration = sd.calibrate(model, rule=RULE, site="input")
    with pytest.raises(SpecError, match="intermediate"):
        sd.accelerate(model, "intermediate", RULE, calibration=calibration)
