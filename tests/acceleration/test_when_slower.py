"""Decode steps for which the kernels are slower than a dense product."""

import json

import pytest
import torch

import sparsedial as sd
from sparsedial.acceleration import timing_table
from sparsedial.acceleration.cpu_backend import make_backend
from sparsedial.acceleration.cpu_products import KeptInputs
from sparsedial.acceleration.kernel_execution import run_on_kernels
from sparsedial.acceleration.product_timing import ProductTimes
from sparsedial.acceleration.saved_settings import FILE_NAME
from sparsedial.acceleration.timing_table import LimitTable
from sparsedial.errors import SpecError

RULE = sd.TopP(0.5)
ONE = torch.arange(1, 2)[None]
TWO = torch.arange(1, 3)[None]


@pytest.fixture(autouse=True)
def slow_for_several_vectors(monkeypatch, tmp_path):
    """Let the table say that kernels are faster than the library for one vector only."""
    monkeypatch.setattr(timing_table, "MIN_BYTES", 0)
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    times = ProductTimes(dense=(3.0, 1.0, 1.0, 1.0), half=(1.0,) * 4, full=(2.0,) * 4, kernel_vectors=8)
    monkeypatch.setattr(timing_table, "measure_product", lambda *_: times)
    monkeypatch.setattr(timing_table, "measure_rule", lambda *_: [0.1] * 4)


def relative_difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def logits_of(model, ids, rule=None):
    with torch.no_grad():
        if rule is None:
            return model(ids).logits
        with sd.sparsify(model, "all_inputs", rule):
            return model(ids).logits


def test_mask_applies_the_rule_to_every_step(make_model):
    model = make_model()
    expected = [logits_of(model, ids, RULE) for ids in (ONE, TWO)]
    with sd.accelerate(model, "all_inputs", RULE) as fast:
        for ids, logits in zip((ONE, TWO), expected, strict=True):
            assert relative_difference(fast(ids).logits, logits) < 1e-5
        report = fast.report()
    assert (report.when_slower, report.calls_without_rule) == ("mask", 0)
    assert report.table.sparsity.min() > 0.5


def test_dense_leaves_out_the_rule_where_the_table_says_slower(make_model):
    model = make_model()
    expected_one = logits_of(model, ONE, RULE)
    expected_two = logits_of(model, TWO)
    with sd.accelerate(model, "all_inputs", RULE, when_slower="dense") as fast:
        assert relative_difference(fast(ONE).logits, expected_one) < 1e-5
        report = fast.report()
        assert (report.calls, report.dense_calls, report.calls_without_rule) == (4, 0, 0)
        fast.reset()
        assert relative_difference(fast(TWO).logits, expected_two) < 1e-5
        report = fast.report()
    assert (report.calls, report.dense_calls, report.calls_without_rule) == (4, 4, 4)
    assert report.read_share == report.dense_byte_share == 1
    assert report.table.sparsity.tolist() == [0, 0, 0, 0]
    assert "100.0% without the rule" in str(report)


def test_a_whole_ffn_without_the_rule_reads_its_weights_with_the_library(make_model, monkeypatch):
    multiplied = []
    multiply = KeptInputs.multiply_with_library

    def record(product, x):
        multiplied.append((product.rows, x.numel() // product.rows))
        return multiply(product, x)

    monkeypatch.setattr(KeptInputs, "multiply_with_library", record)
    model = make_model()
    with sd.accelerate(model, "all_inputs", RULE, when_slower="dense") as fast:
        mlp = fast.model.layers[0].mlp
        with torch.no_grad():
            x = torch.randn(1, 2, mlp.up_proj.in_features)
            result = mlp(x)
            assert multiplied == [(mlp.up_proj.in_features, 2), (mlp.down_proj.in_features, 2)]
            handle = mlp.up_proj.register_forward_hook(lambda *_: None)  # the projections are called one by one
            assert torch.equal(mlp(x), result)
            handle.remove()
    assert len(multiplied) > 2


def test_compiled_steps_without_the_rule_are_counted(make_model):
    model = make_model()
    with sd.accelerate(model, "all_inputs", RULE, when_slower="dense") as fast:
        expected = fast(TWO).logits
        fast.reset()
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        assert relative_difference(compiled(TWO).logits, expected) < 1e-5
        report = fast.report()
    assert (report.calls, report.calls_without_rule, report.read_share) == (4, 4, 1)


def test_a_measurement_always_applies_the_rule(make_model):
    model = make_model()
    ffns = sd.find_ffns(model)
    with torch.no_grad(), run_on_kernels(model, ffns), sd.sparsify(model, "all_inputs", RULE, ffns=ffns):
        logits = model(TWO).logits
    assert relative_difference(logits, logits_of(model, TWO, RULE)) < 1e-5


def test_the_choice_is_saved_with_the_model(make_model, tmp_path):
    with sd.accelerate(make_model(), "all_inputs", RULE, when_slower="dense") as fast:
        fast.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / FILE_NAME
    loaded, _ = sd.load_model(str(tmp_path / "model"), device="cpu", dtype="float32")
    assert loaded.when_slower == "dense"
    data = json.loads(path.read_text())
    assert data.pop("when_slower") == "dense"
    path.write_text(json.dumps(data))  # a file of an earlier version
    loaded, _ = sd.load_model(str(tmp_path / "model"), device="cpu", dtype="float32")
    assert loaded.when_slower == "mask"


def test_vectors_without_a_rule_are_never_a_step_without_the_rule(make_model):
    assert LimitTable(make_backend()).find_limits(torch.randn(24, 40)).rule_is_slower == (False,) * 8
    with sd.accelerate(make_model(), "input", RULE, when_slower="dense") as fast:
        fast(TWO)
        table = fast.report()
    assert table.calls_without_rule == 2  # up and gate of both layers


def test_an_unknown_choice_raises_an_error(make_model):
    with pytest.raises(SpecError, match="when_slower 'sparse': expected one of mask, dense"):
        sd.accelerate(make_model(), "input", RULE, when_slower="sparse")
