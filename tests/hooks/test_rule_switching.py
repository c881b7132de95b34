"""Rules that change inside the block, sparsifiers that are turned off and on, and counts that are reset."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.ffn.feed_forward import SITES
from sparsedial.hooks.step_mask_reuse import MaskReuse
from tests.support.expert_models import GATHERS, ListedExpertsModel, build_model

HIGH, LOW = sd.TopP(0.9), sd.TopP(0.4)
COUNTS = ["layer", "vector", "expert", "phase", "dropped", "total"]

pytestmark = pytest.mark.usefixtures("fast_decode")


def logits_of(model, ids):
    output = model(ids)
    return getattr(output, "logits", output)


def run_with(model, site, rule, inputs):
    """Return the outputs and the counts of a sparsifier that has one rule only."""
    with sd.sparsify(model, site, rule) as sparsifier:
        outputs = [logits_of(model, ids) for ids in inputs]
    return outputs, sparsifier.stats()


def equal(outputs, expected):
    return all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


def assert_counts(table, rule, expected):
    rows = table[table["rule"] == repr(rule)][COUNTS].reset_index(drop=True)
    assert rows.equals(expected[COUNTS])


@pytest.fixture(params=["llama", "phi3", "qwen3_moe", "listed"])
def model(request):
    if request.param == "listed":
        return ListedExpertsModel(GATHERS["index"])
    if request.param == "qwen3_moe":
        return build_model("qwen3_moe")
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("site", ["input", "up", "intermediate", "all_inputs"])
@torch.inference_mode()
def test_a_new_rule_takes_effect_at_the_next_forward_and_is_counted_separately(model, site, tokens):
    inputs = [tokens, tokens[:1, :1], tokens[:1, 1:2], tokens[:1, 2:3]]
    high, high_counts = run_with(model, site, HIGH, inputs * 2)
    low, low_counts = run_with(model, site, LOW, inputs)
    with sd.sparsify(model, site, HIGH) as sparsifier:
        outputs = []
        for rule in (HIGH, LOW, HIGH):
            sparsifier.rule = rule
            outputs += [logits_of(model, ids) for ids in inputs]
        assert sparsifier.rule == HIGH
    expected = high[:4] + low + high[4:]
    assert equal(outputs, expected)
    table = sparsifier.stats()
    assert table.columns[-1] == "rule"
    assert_counts(table, HIGH, high_counts)
    assert_counts(table, LOW, low_counts)


@pytest.mark.parametrize("site", SITES)
@torch.inference_mode()
def test_a_disabled_sparsifier_is_dense_and_counts_nothing(llama, tokens, site):
    inputs = [tokens, tokens[:1, :1], tokens[:1, 1:2]]
    dense = [logits_of(llama, ids) for ids in inputs]
    sparse, counts = run_with(llama, site, LOW, inputs)
    with sd.sparsify(llama, site, LOW) as sparsifier:
        for ids in inputs:
            logits_of(llama, ids)
        sparsifier.enabled = False
        assert not sparsifier.enabled
        assert equal([logits_of(llama, ids) for ids in inputs], dense)
        assert sparsifier.stats().equals(counts)
        sparsifier.rule = HIGH  # takes effect when it is enabled
        assert torch.equal(logits_of(llama, tokens), dense[0])
        sparsifier.rule = LOW
        sparsifier.enabled = True
        sparsifier.reset()
        assert equal([logits_of(llama, ids) for ids in inputs], sparse)
    assert sparsifier.stats().equals(counts)


def test_a_model_that_was_always_disabled_is_no_error(llama, tokens):
    with torch.no_grad():
        dense = llama(tokens).logits
        with sd.sparsify(llama, "all_inputs", LOW) as sparsifier:
            sparsifier.enabled = False
            assert torch.equal(llama(tokens).logits, dense)


@torch.no_grad()
def test_a_rule_that_is_set_during_a_forward_waits_for_the_next_one(own_llama, tokens):
    expected = run_with(own_llama, "input", HIGH, [tokens])[0] + run_with(own_llama, "input", LOW, [tokens])[0]
    with sd.sparsify(own_llama, "input", HIGH) as sparsifier:

        def set_rule(*_):
            sparsifier.rule = LOW

        handle = own_llama.model.layers[1].register_forward_pre_hook(set_rule)
        outputs = [own_llama(tokens).logits, own_llama(tokens).logits]
        handle.remove()
    assert equal(outputs, expected)
    assert sparsifier.stats()["rule"].tolist() == [repr(HIGH)] * 3 + [repr(LOW)] * 3


@torch.no_grad()
def test_a_new_mapping_leaves_vectors_without_a_rule_dense(llama, tokens):
    expected = run_with(llama, "input", LOW, [tokens])[1]
    with sd.sparsify(llama, "input", LOW) as sparsifier:
        llama(tokens)
        sparsifier.rule = {0: HIGH, 2: LOW}
        changed = llama(tokens).logits
    with sd.sparsify(llama, "input", {0: HIGH, 2: LOW}):
        assert torch.equal(llama(tokens).logits, changed)
    table = sparsifier.stats()
    assert table["layer"].tolist() == [0, 1, 2, 0]  # the counts of the last layer with the same rule are added up
    assert table["dropped"].tolist()[:2] == expected["dropped"].tolist()[:2]
    assert table["total"].tolist() == [48 * 32, 48 * 32, 2 * 48 * 32, 48 * 32]


@torch.no_grad()
def test_reset_clears_all_counts(llama, tokens):
    with sd.sparsify(llama, "all_inputs", LOW, track_usage=True) as sparsifier:
        for ids in (tokens, tokens[:1, :1], tokens[:1, :1]):
            llama(ids)
        sparsifier.reset()
        with pytest.raises(sd.SparsedialError, match="never reached"):
            sparsifier.stats()
        assert sparsifier.usage() == []
        sparsifier.rule = HIGH
        llama(tokens)
    table = sparsifier.stats()
    assert "rule" not in table and set(table["tokens"]) == {48}
    assert {usage.tokens for usage in sparsifier.usage()} == {48}


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_model_notices_a_new_rule(own_llama, tokens):
    torch._dynamo.reset()
    rules = [sd.TopP(p / 5) for p in range(1, 5)]  # more than torch.compile may recompile here
    expected = [run_with(own_llama, "all_inputs", rule, [tokens])[0][0] for rule in rules]
    limit = torch._dynamo.config.patch(recompile_limit=2)
    with limit, sd.sparsify(own_llama, "all_inputs", HIGH) as sparsifier:
        compiled = torch.compile(own_llama, backend="eager")
        for rule, logits in zip(rules, expected, strict=True):
            sparsifier.rule = rule
            torch.testing.assert_close(compiled(tokens).logits, logits, rtol=1e-4, atol=1e-5)
    assert sparsifier.stats()["rule"].nunique() == len(rules)


@torch.no_grad()
def test_a_reused_mask_of_an_earlier_rule_is_not_used(llama, tokens):
    with sd.sparsify(llama, "input", LOW) as sparsifier:
        MaskReuse(4).attach(sparsifier)
        for step, rule in enumerate([LOW, HIGH]):
            sparsifier.rule = rule
            with sparsifier.observe(step=step):
                logits = llama(tokens).logits
    assert torch.equal(logits, run_with(llama, "input", HIGH, [tokens])[0][0])


def test_the_rule_of_a_sparsifier_that_is_not_attached_may_be_set(llama, tokens):
    sparsifier = sd.sparsify(llama, "input", LOW)
    sparsifier.rule = HIGH
    with torch.no_grad(), sparsifier:
        llama(tokens)
    assert "rule" not in sparsifier.stats()
    with pytest.raises(SpecError):
        sparsifier.rule = None
