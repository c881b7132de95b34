"""The fast path for decoding one token on the CPU: when it is taken, and that it counts like the generic path."""

from __future__ import annotations

import pytest
import torch

import sparsedial as sd
from sparsedial.cache_arguments import returned_cache
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.decode_fast_path import VARIABLE
from sparsedial.hooks.forward_coordinator import ForwardCoordinator
from sparsedial.hooks.rule_applier import RuleApplier, RuleSet
from sparsedial.rules import TopK
from tests.support.cache_name import CACHE

MODELS = ("llama", "phi3", "gpt2")
KEY = CounterKey(0, "mlp", "input", None, 8)


@pytest.fixture
def generic_calls(monkeypatch):
    """The number of calls of the generic path, as a list with one entry per call."""
    calls = []
    generic = RuleApplier.__call__

    def count(self, x):
        calls.append(x)
        return generic(self, x)

    monkeypatch.setattr(RuleApplier, "__call__", count)
    return calls


def decode(coordinator, apply, tokens):
    for _ in range(tokens):
        coordinator.enter_model(0, {"input_ids": torch.tensor([[5]])})
        assert (apply(torch.randn(8)) != 0).sum() == 2
        coordinator.leave_model(0, failed=False)


@pytest.mark.parametrize(("value", "expected"), [(None, 1), ("1", 1), ("0", 5)])
def test_only_the_first_token_takes_the_generic_path_unless_it_is_turned_off(
    generic_calls, monkeypatch, value, expected
):
    """Otherwise the tests that run both ways would test nothing."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    coordinator = ForwardCoordinator(RuleSet((TopK(0.25),), (TopK(0.25),)), [KEY])
    decode(coordinator, coordinator.make_applier(0), tokens=5)
    assert len(generic_calls) == expected
    assert coordinator.fast_path.has_slots == (value != "0")
    coordinator.flush()
    assert coordinator.counters.table()["tokens"].tolist() == [5]


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_ids": torch.tensor([[5, 6]])},
        {"input_ids": torch.tensor([[5]]), "attention_mask": torch.tensor([[0]])},
        {"inputs_embeds": torch.zeros(1, 2, 8)},
        {"input_ids": [[5]]},
    ],
    ids=["two tokens", "padding", "two embeddings", "a list"],
)
def test_other_forwards_take_the_generic_path(generic_calls, arguments):
    coordinator = ForwardCoordinator(RuleSet((TopK(0.25),), (TopK(0.25),)), [KEY])
    apply = coordinator.make_applier(0)
    decode(coordinator, apply, tokens=2)
    generic_calls.clear()
    coordinator.enter_model(0, arguments)
    apply(torch.randn(8))
    coordinator.leave_model(0, failed=False)
    apply(torch.randn(8))  # outside of a forward
    assert len(generic_calls) == 2


@pytest.mark.parametrize("name", MODELS)
def test_single_tokens_count_like_the_generic_path(name, tokens, request, monkeypatch):
    """Compares both paths with the reference backend, which has no decode slots."""
    model = request.getfixturevalue(name)
    expected_logits, expected_stats = run_single_tokens(model, tokens, monkeypatch, fast="1", backend="reference")
    for fast in ("1", "0"):
        logits, stats = run_single_tokens(model, tokens, monkeypatch, fast=fast, backend="cpu")
        assert torch.equal(logits, expected_logits)
        assert stats.equals(expected_stats)
    assert set(expected_stats["phase"]) == {"prefill", "generation"}
    assert expected_stats["step"].nunique() == 2


def run_single_tokens(model, tokens, monkeypatch, *, fast, backend):
    monkeypatch.setenv("SPARSEDIAL_BACKEND", backend)
    monkeypatch.setenv(VARIABLE, fast)
    logits = []
    with sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as sparsifier:
        with torch.inference_mode():
            cache = returned_cache(model(tokens[:1, :4], use_cache=True))
            for i in range(4, 8):
                mask = torch.ones(1, i + 1, dtype=torch.int64)
                mask[0, -1] = i != 5  # a padding token
                logits.append(model(tokens[:1, i : i + 1], attention_mask=mask, **{CACHE: cache}).logits)
        sparsifier.stats()
        logits.append(model(tokens[:1, :1]).logits)  # with gradients, and a prefill of one token
        for step in (0, 1, 1):
            with torch.no_grad(), sparsifier.observe(step=step):
                logits.append(model(tokens[1:, step : step + 1]).logits)
        with pytest.raises(IndexError), torch.no_grad():
            model(torch.full((1, 1), 1000))  # larger than the vocabulary
        handle = model.get_output_embeddings().register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), torch.no_grad():
            model(tokens[:1, :1])  # fails after all layers were counted
        handle.remove()
        model(tokens[:1, 3:4])
    return torch.cat([x.flatten() for x in logits]), sparsifier.stats()
