"""The phase, the denoising step and the real tokens of a forward."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.hooks.forward_override import ForwardOverride
from sparsedial.hooks.forward_tracker import ForwardTracker, PerForwardContext

IDS = torch.tensor([[5, 6, 7]])
ONE = torch.tensor([[5]])


def read_context(tracker, arguments):
    context = tracker.enter(0, arguments)
    tracker.leave(0)
    return context


def test_there_is_a_context_only_while_a_forward_runs():
    tracker = ForwardTracker()
    assert tracker.context is None
    context = tracker.enter(0, {"input_ids": IDS})
    assert tracker.context is context
    assert (context.phase, context.step, context.real_tokens) == ("prefill", None, None)
    assert tracker.leave(0) is None
    assert tracker.context is None


def test_the_context_is_that_of_the_innermost_model():
    tracker = ForwardTracker()
    mask = torch.tensor([[1, 1, 0]])
    outer = tracker.enter(0, {"batch": {"labels": IDS}})
    inner = tracker.enter(1, {"input_ids": IDS, "attention_mask": mask})
    assert tracker.is_running(0) and tracker.is_running(1) and not tracker.is_running(2)
    assert tracker.enter(2, {"input_ids": IDS, "attention_mask": mask}) is inner  # passed on without a change
    assert tracker.leave(2) is inner
    assert tracker.leave(1) is outer
    assert (outer.real_tokens, inner.real_tokens.tolist()) == (None, [[True, True, False]])
    assert tracker.leave(0) is None
    assert not tracker.is_inside_forward


def test_leaving_a_model_also_ends_those_inside_it_that_were_interrupted():
    tracker = ForwardTracker()
    tracker.enter(0, {"input_ids": IDS})
    tracker.enter(1, {"inputs_embeds": IDS[..., None].float()})
    assert tracker.leave(2) is tracker.context  # a model whose forward never started
    assert tracker.leave(0) is None
    assert not tracker.is_inside_forward


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"input_ids": ONE}, True),
        ({"input_ids": ONE, "attention_mask": torch.tensor([[1]])}, True),
        ({"input_ids": ONE, "attention_mask": torch.tensor([[0]])}, False),
        ({"input_ids": IDS}, False),
        ({"input_ids": [[5]]}, False),
        ({"input_ids": ONE.to("meta")}, False),
        ({}, False),
    ],
)
def test_a_single_real_token_on_the_cpu_is_recognised(arguments, expected):
    assert read_context(ForwardTracker(), arguments).is_single_cpu_token == expected


def test_the_dispatcher_is_not_bypassed_while_it_is_observed():
    tracker = ForwardTracker()
    assert read_context(tracker, {"input_ids": ONE}).can_bypass_dispatcher
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        context = read_context(tracker, {"input_ids": ONE})
    assert not context.can_bypass_dispatcher
    assert not context.is_single_cpu_token


def test_a_filled_cache_means_generation():
    tracker = ForwardTracker()
    cache = DynamicCache()
    assert read_context(tracker, {"input_ids": IDS, "past_key_values": cache}).phase == "prefill"
    cache.update(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4), 0)
    assert read_context(tracker, {"input_ids": ONE, "past_key_values": cache}).phase == "generation"


def test_an_override_ends_with_its_block_and_may_be_nested():
    tracker = ForwardTracker()
    overrides = tracker.overrides
    with overrides.override(ForwardOverride(phase="generation", step=2)):
        with overrides.override(ForwardOverride(step=3)):
            inner = read_context(tracker, {"input_ids": IDS})
        outer = read_context(tracker, {"input_ids": IDS})
    default = read_context(tracker, {"input_ids": IDS})
    assert (inner.phase, inner.step) == ("prefill", 3)
    assert (outer.phase, outer.step) == ("generation", 2)
    assert (default.phase, default.step) == ("prefill", None)


def test_each_forward_can_be_observed_by_itself():
    model = nn.Identity()
    tracker = ForwardTracker()
    steps = iter(range(10))
    contexts = []
    handle = model.register_forward_pre_hook(lambda *_: contexts.append(read_context(tracker, {"input_ids": IDS})))
    with PerForwardContext(model, lambda: tracker.overrides.override(ForwardOverride(step=next(steps)))):
        model(IDS)
        model(IDS)
    model(IDS)
    handle.remove()
    assert [context.step for context in contexts] == [0, 1, None]


@pytest.mark.usefixtures("fast_decode")
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_separates_the_phases(llama, cache, tokens):
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    with sd.sparsify(llama, "input", sd.TopP(0.9)) as sparsifier:
        llama.generate(
            tokens, attention_mask=mask, max_new_tokens=5, min_new_tokens=5, do_sample=False,
            cache_implementation=cache if cache == "static" else None, disable_compile=True,
        )  # fmt: skip
    table = sparsifier.stats().set_index(["layer", "phase"])
    for layer in range(3):
        assert table.loc[(layer, "prefill"), "total"] == (48 - 5) * 32
        assert table.loc[(layer, "generation"), "total"] == 4 * 4 * 32  # the last token is never fed back


def test_a_tuple_of_keys_and_values_is_a_cache():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.up = nn.Linear(8, 16)
            self.down = nn.Linear(16, 8)

        def forward(self, input_ids, past_key_values=None):
            x = self.embed(input_ids)
            return self.down(torch.relu(self.up(x))), ((x, x),)

    model = Model()
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopK(0.5)) as sparsifier:
        _, past = model(torch.arange(5)[None], past_key_values=[None])
        model(torch.arange(1)[None], past_key_values=past)
    assert sparsifier.stats().set_index("phase")["tokens"].to_dict() == {"prefill": 5, "generation": 1}


def test_the_user_may_describe_a_forward(llama, tokens):
    real = torch.zeros(4, 12, dtype=torch.bool)
    real[:, 2:4] = True
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.9)) as sparsifier:
        with sparsifier.observe(phase="generation", step=3, real=real):
            llama(tokens)
        with sparsifier.observe(step=4):
            llama(tokens)
    table = sparsifier.stats()
    assert table.groupby(["phase", "step"])["total"].sum().to_dict() == {
        ("generation", 3): 3 * 8 * 32, ("prefill", 4): 3 * 48 * 32
    }  # fmt: skip
    with pytest.raises(SpecError, match="decode"), sparsifier.observe(phase="decode"):
        pass


def test_the_real_tokens_must_match_the_number_of_tokens(llama, tokens):
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.9)) as sparsifier:
        few = sparsifier.observe(real=torch.ones(47, dtype=torch.bool))
        with pytest.raises(SpecError, match="47 entries for a forward of 48 tokens"), few:
            llama(tokens)
        with sparsifier.observe(real=torch.ones(48, dtype=torch.bool)):
            llama(inputs_embeds=llama.get_input_embeddings()(tokens))
    assert set(sparsifier.stats()["total"]) == {48 * 32}
