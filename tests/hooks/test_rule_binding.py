"""Rules that are not built in, attached to models: their kept sets, their calibration, and their kernels."""

import copy

import pytest
import torch

import sparsedial as sd
from sparsedial.cache_arguments import returned_cache
from sparsedial.errors import ModelError, SpecError
from sparsedial.kernels import kernel_registry, reference
from sparsedial.rules import Calibration
from tests.support.cache_name import CACHE
from tests.support.custom_rules import AboveMean, CalibratedThreshold, ColumnTopK, WeightedTopK
from tests.support.expert_models import build_model, model_inputs

RULES = [AboveMean(1.0), AboveMean(1.0, offset=0.01), ColumnTopK(0.5)]


def collect_inputs(model, ffns, tokens, rule, site="input"):
    """Return what the up projections and the down projections read while a rule is attached."""
    seen = {}
    hooks = []
    for ffn in ffns:
        for name, module in (("input", ffn.up.module), ("intermediate", ffn.down)):
            key = (ffn.layer, name)
            hooks.append(module.register_forward_pre_hook(lambda _, args, key=key: seen.update({key: args[0].clone()})))
    with sd.sparsify(model, site, rule, ffns=ffns) as sparsifier:
        model(tokens)
    for hook in hooks:
        hook.remove()
    return seen, sparsifier


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_counts_are_those_of_the_definition(llama, tokens, rule):
    ffns = sd.find_ffns(llama)
    seen, sparsifier = collect_inputs(llama, ffns, tokens, rule)  # pre-hooks see the vectors before the rule
    stats = sparsifier.stats().set_index("layer")
    for ffn in ffns:
        _, kept = reference.select(seen[ffn.layer, "input"], rule.bind(ffn, "input", None))
        assert stats.loc[ffn.layer, "dropped"] == kept.numel() * ffn.hidden - kept.sum()
    assert 0.1 < sparsifier.sparsity() < 0.9


@pytest.mark.parametrize("rule", [AboveMean(0.0), ColumnTopK(1.0)], ids=str)
@pytest.mark.parametrize("site", ["input", "gate", "intermediate", "all_inputs"])
def test_the_dense_value_gives_the_dense_logits(llama, tokens, rule, site):
    if site == "gate" and isinstance(rule, ColumnTopK):
        rule = AboveMean(0.0)
    with sd.sparsify(llama, site, rule):
        sparse = llama(tokens).logits
    assert torch.equal(sparse, llama(tokens).logits)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_decoding_equals_one_forward_pass(llama, tokens, rule):
    """The fast path for decoding computes the built-in rules only."""
    with sd.sparsify(llama, "all_inputs", rule) as sparsifier:
        expected = llama(tokens[:1]).logits[0]
        cache = None
        rows = []
        for token in tokens[0]:
            output = llama(token[None, None], **{CACHE: cache}, use_cache=True)
            cache = returned_cache(output)
            rows.append(output.logits[0, 0])
    torch.testing.assert_close(torch.stack(rows), expected, atol=1e-4, rtol=1e-4)
    sparsity = sparsifier.stats().groupby("phase")["sparsity"].mean()
    assert sparsity["prefill"] == pytest.approx(sparsity["generation"], abs=0.05)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_compiled_model_keeps_the_same_entries(own_llama, tokens, rule):
    with torch.no_grad(), sd.sparsify(own_llama, "input", rule) as sparsifier:
        expected = own_llama(tokens).logits
    with torch.no_grad(), sd.sparsify(own_llama, "input", rule) as compiled_sparsifier:
        logits = torch.compile(own_llama, backend="eager")(tokens).logits
    torch.testing.assert_close(logits, expected)
    assert compiled_sparsifier.stats()["dropped"].tolist() == sparsifier.stats()["dropped"].tolist()


def test_apply_rule_can_be_compiled_with_any_rule():
    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x):
        return sd.apply_rule(x, rule)[0]

    rule = AboveMean(1.0)
    x = torch.randn(4, 20)
    assert torch.equal(compiled(x), sd.apply_rule(x, rule)[0])


def test_a_wrapper_sees_the_rule_of_its_vector(llama, tokens):
    ffns = sd.find_ffns(llama)
    calibration = Calibration({"scales": [0.0, 1.0, 2.0]})
    kept_by_counter = {}

    def observe(counter, x, context, inner):
        y, kept = inner(counter, x, context)
        kept_by_counter[counter] = int(kept.sum())
        return y, kept

    with sd.sparsify(llama, "input", CalibratedThreshold(1.0), ffns=ffns, calibration=calibration) as sparsifier:
        sparsifier.wrap(observe)
        llama(tokens)
    assert kept_by_counter[0] == tokens.numel() * 32
    assert kept_by_counter[0] > kept_by_counter[1] > kept_by_counter[2]


def test_a_calibration_is_required_by_name(llama):
    with pytest.raises(SpecError, match=r"CalibratedThreshold.*needs a calibration"):
        sd.sparsify(llama, "input", CalibratedThreshold(0.5))


def test_the_result_of_bind_is_checked(llama, monkeypatch):
    monkeypatch.setattr(ColumnTopK, "bind", lambda self, ffn, vector, calibration: "mask")
    with pytest.raises(SpecError, match=r"bind returned 'mask', expected an object with the method keep_mask"):
        sd.sparsify(llama, "input", ColumnTopK(0.5))


def test_a_rule_that_differs_between_stacked_experts_is_refused():
    model = build_model("mixtral")
    with sd.sparsify(model, "input", AboveMean(1.0)) as sparsifier:
        model(**model_inputs("mixtral"))
    assert 0 < sparsifier.sparsity() < 1
    with pytest.raises(ModelError, match=r"ColumnTopK.*differs between FFNs.*sparsified together"):
        sd.sparsify(model, "input", ColumnTopK(0.5))


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(kernel_registry, "_kernels", {})


def test_a_registered_kernel_is_used_for_its_class_and_device(llama, tokens, kernels, monkeypatch):
    calls = []

    @sd.register_kernel(WeightedTopK, "cpu")
    def select(x, rule):
        calls.append(x.shape)
        return reference.select(x, rule)

    with sd.sparsify(llama, "input", ColumnTopK(0.5)):
        llama(tokens)
    assert len(calls) == 3
    monkeypatch.setenv("SPARSEDIAL_BACKEND", "reference")
    with sd.sparsify(llama, "input", ColumnTopK(0.5)):
        llama(tokens)
    assert len(calls) == 3


def test_a_subclass_does_not_use_the_kernel_of_its_base(kernels):
    class Rounded(sd.TopK):
        def keep_mask(self, magnitudes):
            return torch.ones_like(magnitudes, dtype=torch.bool)

    x = torch.randn(3, 10)
    assert torch.equal(sd.apply_rule(x, Rounded(0.1))[0], x)
    assert torch.equal(copy.deepcopy(x), x)


@pytest.mark.parametrize(
    ("rule_class", "device", "message"),
    [
        (sd.TopP, "cpu", "TopP is built in"),
        (AboveMean, "gpu", "device type 'gpu'"),
        (int, "cpu", "expected a class with the method keep_mask"),
    ],
)
def test_a_kernel_needs_a_rule_and_a_device(kernels, rule_class, device, message):
    with pytest.raises(SpecError, match=message):
        sd.register_kernel(rule_class, device)


def test_a_kernel_is_registered_once(kernels):
    def make_kernel():
        def select(x, rule):
            return reference.select(x, rule)

        return select

    sd.register_kernel(AboveMean, "cpu")(make_kernel())
    sd.register_kernel(AboveMean, "cpu")(make_kernel())  # the cell of a notebook is run again
    with pytest.raises(SpecError, match="AboveMean has a kernel for 'cpu' already"):
        sd.register_kernel(AboveMean, "cpu")(reference.select)


def test_a_rule_that_reads_the_weights_of_an_ffn_is_an_error_at_other_sites(llama):
    with pytest.raises(SpecError, match=r"not defined at the site 'attention_input'.*ffn\.\w+, which only FFNs have"):
        sd.sparsify(llama, "attention_input", ColumnTopK(0.5))


@torch.no_grad()
def test_a_rule_that_needs_the_vector_only_works_at_other_sites(llama, tokens):
    with sd.sparsify(llama, "lm_head_input", AboveMean(1.0)) as sparsifier:
        llama(tokens)
    assert 0.1 < sparsifier.sparsity() < 0.9


def test_a_calibration_is_an_object_of_its_class(llama):
    with pytest.raises(SpecError, match="calibration: got an object of type dict, expected what"):
        sd.sparsify(llama, "gate", sd.Threshold(0.5), calibration={"rule": "threshold"})
