"""The rules of other papers: their definitions, written down a second time, and the suites that all rules pass."""

import json
import math

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.kernels import reference
from sparsedial.rules import Calibration, make_rule, rule_from_json
from sparsedial.rules.cett import truncation_errors
from sparsedial.testing import check_kernel, check_rule
from tests.support.single_ffn import make_ffn

WIDTHS = (1, 33)
TOKENS = 128


def calibrate(rule, ffn, vector, vectors=None):
    """Return the calibration of a rule for one vector of one FFN."""
    if vectors is None:
        vectors = torch.randn(TOKENS, ffn.width, generator=torch.Generator().manual_seed(3))
    entry = {"fingerprint": ffn.fingerprint, "vectors": {vector: rule.calibrate_vector(vectors, ffn, vector)}}
    values = {"rule": rule.name, "data": "samples", "tokens": 1024, "site": vector, "ffns": {ffn.name: entry}}
    return Calibration(json.loads(json.dumps(values)))


def bind(vector):
    """Return a function that binds a rule to a vector of a width."""

    def bind_to_width(rule, width):
        ffn = make_ffn(width)
        calibration = calibrate(rule, ffn, vector) if rule.needs_calibration else None
        return rule.bind(ffn, vector, calibration)

    return bind_to_width


BOUND = [
    (sd.WeightedTopK, "input"),
    (sd.WeightedTopP, "intermediate"),
    (sd.Threshold, "gate"),
    (sd.Cett, "intermediate"),
]


@pytest.mark.parametrize(("rule_class", "vector"), BOUND)
def test_bound_rules_pass_the_suite(rule_class, vector):
    check_rule(rule_class, bind=bind(vector), widths=WIDTHS)


def test_n_of_m_passes_the_suite():
    check_rule(sd.NOfM, widths=(4, 36, 96))


@pytest.mark.parametrize("q", [0.5, 2.0, 3])
def test_powers_of_top_p_pass_the_suites(q):
    check_rule(sd.TopP, bind=lambda rule, _: sd.TopP(rule.p, q), widths=WIDTHS)
    rules = [sd.TopP(p, q) for p in (0.0, 0.3, 0.9, 1.0)]
    tally = check_kernel(reference.select, lambda _: rules, widths=(1, 33))
    assert tally.differing == 0 and tally.vectors > 100


def top_p_by_loop(values, p, q):
    """Return the indices that top-p keeps, added one by one."""
    order = sorted(range(len(values)), key=lambda index: (-abs(values[index]), index))
    total = math.fsum(abs(value) ** q for value in values)
    kept = []
    while math.fsum(abs(values[index]) ** q for index in kept) < p * total:
        kept.append(order[len(kept)])
    return sorted(kept)


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("p", [0.0, 0.4, 0.9])
def test_top_p_of_powers_is_its_definition(p, q):
    for values in torch.randn(20, 17, dtype=torch.float64).tolist():
        y, kept = sd.apply_rule(torch.tensor(values, dtype=torch.float64), sd.TopP(p, q))
        assert y.nonzero().flatten().tolist() == top_p_by_loop(values, p, q)
        assert kept == len(top_p_by_loop(values, p, q))


def n_of_m_by_loop(values, n, m):
    kept = []
    for start in range(0, len(values), m):
        group = sorted(range(start, start + m), key=lambda index: (-abs(values[index]), index))
        kept += group[:n]
    return sorted(kept)


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("8:16", 8, 16), ("16:32", 16, 32), ("1:4", 1, 4)])
def test_n_of_m_is_its_definition(pattern, n, m):
    rule = sd.NOfM.from_pattern(pattern)
    assert (rule.n, rule.m) == (n, m)
    for values in torch.randn(5, 96).round(decimals=1).tolist():  # with ties
        mask = rule.keep_mask(torch.tensor(values, dtype=torch.float64).abs()[None])[0]
        assert mask.nonzero().flatten().tolist() == n_of_m_by_loop(values, n, m)


@pytest.mark.parametrize("vector", ["input", "intermediate"])
def test_weighted_scores_are_magnitude_times_column_norm(vector):
    ffn = make_ffn(40)
    norms = ffn.down.weight.norm(dim=0)
    if vector == "input":
        norms = torch.cat([ffn.up.module.weight, ffn.gate.module.weight]).norm(dim=0)
    x = torch.randn(6, 40)
    scores = x.abs().double() * norms.double()
    for rule, plain in ((sd.WeightedTopK(0.3), sd.TopK(0.3)), (sd.WeightedTopP(0.8), sd.TopP(0.8))):
        y, _ = reference.select(x, rule.bind(ffn, vector, None))
        assert torch.equal(y != 0, plain.keep_mask(scores))
        assert not torch.equal(y != 0, plain.keep_mask(x.abs().double()))


def test_a_convolution_of_gpt2_has_its_weights_transposed(gpt2):
    ffn = sd.find_ffns(gpt2)[0]
    [up], [down] = ffn.reading_matrices("input"), ffn.reading_matrices("intermediate")
    assert up.shape == (ffn.width, ffn.hidden) and down.shape == (ffn.hidden, ffn.width)
    assert ffn.reading_matrices("up") == []


@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.999])
def test_a_threshold_is_the_quantile_of_the_calibration_data(quantile):
    ffn = make_ffn(33)
    vectors = torch.randn(TOKENS, 33)
    rule = sd.Threshold(quantile)
    bound = rule.bind(ffn, "up", calibrate(rule, ffn, "up", vectors))
    sparsity = 1 - bound.keep_mask(vectors.abs().double()).double().mean()
    assert sparsity == pytest.approx(quantile, abs=1 / vectors.numel() + 1e-3)
    if quantile == 0.5:
        assert bound.threshold == pytest.approx(vectors.abs().double().quantile(0.5).item(), rel=1e-6)


def test_cett_keeps_the_error_of_the_output_at_the_limit():
    ffn = make_ffn(64)
    vectors = torch.randn(TOKENS, 64) * torch.rand(TOKENS, 64) ** 3
    weight = ffn.down.weight.detach()
    dense = vectors @ weight.T
    previous = 0.0
    for limit in (0.05, 0.2, 0.5, 0.8):
        rule = sd.Cett(limit)
        bound = rule.bind(ffn, "intermediate", calibrate(rule, ffn, "intermediate", vectors))
        mask = bound.keep_mask(vectors.abs().double())
        error = ((vectors * ~mask) @ weight.T).norm(dim=-1) / dense.norm(dim=-1)
        assert error.mean() == pytest.approx(limit, abs=0.02)
        sparsity = 1 - mask.double().mean().item()
        assert sparsity > previous
        previous = sparsity


def test_the_truncation_error_leaves_out_tokens_without_output():
    weight = torch.eye(2)
    assert truncation_errors(torch.zeros(3, 2), weight, torch.ones(2), [1.0]) == [0.0]
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert truncation_errors(vectors, weight, torch.ones(2), [2.0, 3.0]) == pytest.approx([0.0, 0.6])


@pytest.mark.parametrize(
    ("family", "value", "json_options"),
    [
        ("top_p", 0.9, None),
        ("top_p(q=1)", 0.9, None),
        ("top_p(q=2)", 0.9, {"q": 2.0}),
        ("n_of_m(m=16)", 0.5, {"m": 16}),
        ("weighted_top_k", 0.5, None),
        ("threshold", 0.5, {"data": "samples", "tokens": 1024}),
        ("threshold(data=arc_easy, tokens=64)", 0.5, {"data": "arc_easy", "tokens": 64}),
        ("cett(tokens=100)", 0.5, {"data": "samples", "tokens": 100}),
    ],
)
def test_a_family_names_the_options_of_a_rule(family, value, json_options):
    rule = make_rule(family, value)
    assert rule.family == family.replace("(q=1)", "")
    data = json.loads(json.dumps(rule.to_json()))
    assert data.get("options") == json_options
    assert rule_from_json(data) == rule == make_rule(rule.family, value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_rule("top_p(q=0)", 0.5), r"TopP\(q=0\): expected a finite number above 0"),
        (lambda: make_rule("top_p(q=nan)", 0.5), r"TopP\(q='nan'\): expected a finite number"),
        (lambda: sd.TopP(0.5, math.inf), "expected a finite number above 0"),
        (lambda: make_rule("top_p(r=2)", 0.5), "unknown option 'r': expected q"),
        (lambda: make_rule("top_k(q=2)", 0.5), "the rule has no options"),
        (lambda: make_rule("top_p(2)", 0.5), "expected a name and options such as"),
        (lambda: make_rule("top_p(q=2, q=3)", 0.5), "expected a name and options such as"),
        (lambda: make_rule("n_of_m(m=2.5)", 0.5), "expected a whole number of at least 1"),
        (lambda: sd.NOfM.from_pattern("4:2"), "at most as many kept entries as entries"),
        (lambda: sd.NOfM.from_pattern("0:0"), "at most as many kept entries as entries"),
        (lambda: sd.NOfM.from_pattern("two of four"), "expected two whole numbers such as 2:4"),
        (lambda: sd.NOfM.from_pattern(24), "expected two whole numbers such as 2:4"),
        (lambda: sd.Threshold(0.5, tokens=63), "expected a whole number of calibration tokens, at least 64"),
        (lambda: sd.Cett(0.5, data=3), "or the name of a task"),
        (lambda: sd.apply_rule(torch.ones(6), sd.NOfM(0.5)), "m = 4 do not divide its 6 entries"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_options_may_be_numbers_of_numpy():
    assert sd.TopP(0.9, q=np.float32(2)) == sd.TopP(0.9, q=2) and type(sd.TopP(0.9, q=np.float32(2)).q) is float
    assert sd.NOfM(0.5, m=np.int64(16)) == sd.NOfM(0.5, m=16) and type(sd.NOfM(0.5, m=np.int64(16)).m) is int
    rule = sd.Threshold(0.5, tokens=np.int64(512))
    assert rule == sd.Threshold(0.5, tokens=512) and type(rule.tokens) is int
