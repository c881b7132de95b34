"""Models inside wrappers: the tokens, their mask and the phase are those of the model that processes them."""

from __future__ import annotations

import copy
import threading
from functools import partial

import pytest
import torch
import torch.distributed
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
)

import sparsedial as sd
from sparsedial.cache_arguments import returned_cache
from sparsedial.errors import AttachError, SpecError
from tests.support.cache_name import CACHE

IDS = torch.arange(3, 19).view(2, 8)
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0
REAL = int(MASK.sum())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=64, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval()


def tokens_per_phase(model, run, **options):
    """Return the number of tokens that the first layer counted, by phase, and check that all layers agree."""
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5), **options) as sparsifier:
        run()
    table = sparsifier.stats()
    counts = table.groupby("layer").apply(lambda rows: dict(zip(rows["phase"], rows["tokens"], strict=True)))
    assert all(count == counts.iloc[0] for count in counts)
    return counts.iloc[0]


class Wrapper(nn.Module):
    """A module around a language model, whose config it shares as many wrappers do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.config = inner.config


class TakesBatch(Wrapper):
    def forward(self, batch):
        return self.inner(**batch)


class TakesObject(Wrapper):
    def forward(self, batch):
        return self.inner(input_ids=batch.ids, attention_mask=batch.mask)


class MakesMask(Wrapper):
    def forward(self, input_ids):
        return self.inner(input_ids=input_ids, attention_mask=MASK)


class ReturnsNothing(Wrapper):
    def forward(self, input_ids, attention_mask):
        self.output = self.inner(input_ids=input_ids, attention_mask=attention_mask)


class AnyArguments(Wrapper):
    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class CallsForward(Wrapper):
    def forward(self, batch):
        return self.inner.forward(**batch)


class AddsPrompt(Wrapper):
    """Prompt tuning: four virtual tokens before those of the caller."""

    def forward(self, input_ids, attention_mask):
        embeddings = self.inner.get_input_embeddings()(input_ids)
        prompt = torch.ones(2, 4, 32)
        mask = torch.cat([torch.ones(2, 4, dtype=torch.int64), attention_mask], 1)
        return self.inner(inputs_embeds=torch.cat([prompt, embeddings], 1), attention_mask=mask)


class Batch:
    ids = IDS
    mask = MASK


BATCH = {"input_ids": IDS, "attention_mask": MASK}
CALLS = {
    "keywords": (lambda model: model, lambda wrapper: wrapper(input_ids=IDS, attention_mask=MASK), REAL),
    "positions": (lambda model: model, lambda wrapper: wrapper(IDS, MASK), REAL),
    "a batch": (TakesBatch, lambda wrapper: wrapper(BATCH), REAL),
    "an object": (TakesObject, lambda wrapper: wrapper(Batch()), REAL),
    "a mask made inside": (MakesMask, lambda wrapper: wrapper(IDS), REAL),
    "no output": (ReturnsNothing, lambda wrapper: wrapper(IDS, MASK), REAL),
    "any arguments, by position": (AnyArguments, lambda wrapper: wrapper(IDS, MASK), REAL),
    "the forward method": (CallsForward, lambda wrapper: wrapper(BATCH), REAL),
    "virtual tokens": (AddsPrompt, lambda wrapper: wrapper(IDS, MASK), REAL + 2 * 4),
    "torch.compile": (
        lambda model: torch.compile(model, backend="eager"),
        lambda wrapper: wrapper(IDS, MASK),
        REAL,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_padding_is_not_counted(model, name):
    torch._dynamo.reset()
    wrap, call, expected = CALLS[name]
    wrapper = wrap(model)
    # The FFNs are those of the inner model, because not every wrapper can be called with token IDs.
    assert tokens_per_phase(wrapper, lambda: call(wrapper), ffns=sd.find_ffns(model)) == {"prefill": expected}


def test_distributed_data_parallel(model, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        assert tokens_per_phase(parallel, lambda: parallel(IDS, MASK)) == {"prefill": REAL}
        assert tokens_per_phase(parallel, lambda: parallel(input_ids=IDS, attention_mask=MASK)) == {"prefill": REAL}
    finally:
        torch.distributed.destroy_process_group()


def test_a_cache_in_a_batch_means_generation(model):
    wrapper = TakesBatch(model)

    def run():
        cache = returned_cache(wrapper({"input_ids": IDS[:, :7]}))
        wrapper({"input_ids": IDS[:, 7:], CACHE: cache})

    assert tokens_per_phase(wrapper, run, ffns=sd.find_ffns(model)) == {"prefill": 14, "generation": 2}


def test_a_static_cache_may_be_reset_and_its_mask_has_columns_for_tokens_to_come(model):
    cache = StaticCache(model.config, max_cache_len=16)
    mask = torch.zeros(2, 16, dtype=torch.int64)
    mask[:, :8] = MASK
    next_mask = mask.clone()
    next_mask[0, 8] = 1  # the second row has ended

    def run():
        for _ in range(2):
            cache.reset()
            model(IDS, attention_mask=mask, **{CACHE: cache})
            model(IDS[:, :1], attention_mask=next_mask, **{CACHE: cache})

    assert tokens_per_phase(model, run) == {"prefill": 2 * REAL, "generation": 2}


def test_packed_sequences_are_split_into_phases(model):
    """Continuous batching packs prompts and single new tokens of several sequences into one row."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    config = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0)
    memory = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)
    prompts = [[3, 4], [5, 6, 7], [8, 9, 10, 11]]

    def run():
        model.generate_batch(
            inputs=prompts, generation_config=config, continuous_batching_config=memory, progress_bar=False
        )

    assert tokens_per_phase(model, run) == {"prefill": 9, "generation": 3 * 4}


@pytest.mark.parametrize("target", [8, 6], ids=["equal lengths", "different lengths"])
def test_the_two_stacks_of_an_encoder_decoder_have_their_own_masks(target):
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        forced_eos_token_id=None,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    decoder_ids = torch.arange(30, 30 + 2 * target).view(2, target)
    decoder_mask = torch.ones_like(decoder_ids)
    decoder_mask[0, 2:] = 0
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5)) as sparsifier:
        model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=decoder_ids, decoder_attention_mask=decoder_mask)
    counts = sparsifier.stats().set_index("module")["tokens"]
    assert counts.to_dict() == {"model.encoder.layers.0": REAL, "model.decoder.layers.0": 2 + target}
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5)) as sparsifier:
        model.generate(IDS, attention_mask=MASK, max_new_tokens=4, do_sample=False, num_beams=1, eos_token_id=None)
    counts = sparsifier.stats().set_index(["module", "phase"])["tokens"]
    assert counts.to_dict() == {
        ("model.encoder.layers.0", "prefill"): REAL,
        ("model.decoder.layers.0", "prefill"): 2,
        ("model.decoder.layers.0", "generation"): 2 * 3,
    }


def test_a_forward_method_that_hides_its_arguments_is_an_error(model):
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5)) as sparsifier:
        with pytest.raises(AttachError, match=r"LlamaModel\.forward\(\.\.\.\).*observe\(phase="):
            model.model.forward(IDS, MASK)
        with sparsifier.observe(phase="generation", real=MASK.bool()):
            model.model.forward(IDS, MASK)
    assert set(sparsifier.stats()["tokens"]) == {REAL}
    assert set(sparsifier.stats()["phase"]) == {"generation"}

    class HidesArguments(Wrapper):
        def forward(self, batch):
            return self.inner.model.forward(batch.ids, batch.mask)

    wrapper = HidesArguments(model)
    with torch.no_grad(), sd.sparsify(wrapper, "input", sd.TopP(0.5), ffns=sd.find_ffns(model)) as sparsifier:
        with pytest.raises(AttachError, match=r"the model that contains it was not called"):
            wrapper(Batch())
        with sparsifier.observe(real=MASK.bool()):
            wrapper(Batch())
    assert set(sparsifier.stats()["tokens"]) == {REAL}


def test_a_layer_that_is_called_alone_has_no_padding(model):
    x = torch.randn(2, 8, 32)
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5), layers=[0]) as sparsifier:
        model.model.layers[0].mlp(x)
        model(IDS, MASK)  # its mask does not apply to the call before
        with sparsifier.observe(real=MASK.bool()):
            model.model.layers[0].mlp(x)
    assert sparsifier.stats()["tokens"].tolist() == [16 + 2 * REAL]


def run_checkpointed(forward, use_reentrant, hidden_states, **arguments):
    return checkpoint(lambda x: forward(x, **arguments), hidden_states, use_reentrant=use_reentrant)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_counts_each_token_once(model, use_reentrant):
    model = copy.deepcopy(model).train()
    ffns = sd.find_ffns(model)
    for layer in model.model.layers:
        layer.forward = partial(run_checkpointed, layer.forward, use_reentrant)
    with sd.sparsify(model, "all_inputs", sd.TopP(0.5), ffns=ffns) as sparsifier:
        for _ in range(2):
            model(input_ids=IDS, attention_mask=MASK, labels=IDS, use_cache=False).loss.backward()
    assert set(sparsifier.stats()["tokens"]) == {2 * REAL}


def test_threads_wait_for_each_other(model):
    errors = []

    def run():
        try:
            with torch.no_grad():
                for _ in range(25):
                    model(IDS[:1, :1])
        except Exception as error:
            errors.append(error)

    def run_threads():
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert tokens_per_phase(model, run_threads) == {"prefill": 100}
    assert errors == []


@pytest.mark.parametrize("site", ["input", "up", "gate", "intermediate", "all_inputs"])
def test_a_copy_made_inside_the_block_is_dense(model, site):
    with torch.no_grad():
        dense = model(IDS).logits
        with sd.sparsify(model, site, sd.TopP(0.5)) as sparsifier:
            duplicate = copy.deepcopy(model)
            assert not torch.equal(model(IDS).logits, dense)
            assert torch.equal(duplicate(IDS).logits, dense)
        assert torch.equal(duplicate(IDS).logits, dense)
        assert torch.equal(model(IDS).logits, dense)
    assert set(sparsifier.stats()["tokens"]) == {16}
    duplicate.model.layers[0].mlp.up_proj.weight.data.zero_()
    assert not torch.equal(duplicate(IDS).logits, dense)  # it computes with its own weights
    assert not any("forward" in vars(module) for module in duplicate.modules())


def test_a_batch_whose_size_differs_from_the_stated_one_is_an_error(model):
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5)) as sparsifier:
        few = sparsifier.observe(real=torch.ones(15, dtype=torch.bool))
        with pytest.raises(SpecError, match="15 entries for a forward of 16 tokens"), few:
            model(IDS)
        model(IDS)
    assert set(sparsifier.stats()["tokens"]) == {16}
