"""The rule in one phase only: the other phase is dense, bit for bit, and is not counted."""

import copy

import pytest
import torch
from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig, StaticCache

import sparsedial as sd
from sparsedial.cache_arguments import returned_cache
from sparsedial.errors import AttachError, SpecError
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.phase_selection import PhaseSelection, restore_dense_vectors, select_phases
from sparsedial.hooks.step_mask_reuse import MaskReuse
from tests.support.cache_name import CACHE
from tests.support.expert_models import build_model

MODELS = ("llama", "phi3", "gpt2")
RULE = sd.TopP(0.6)
SITES = ("input", "gate", "all_inputs")
PROMPT = 5
NEW = 4


def decode(model, tokens, cache, steps=NEW):
    """Return the logits of single tokens that are read with a cache."""
    logits = []
    for step in range(steps):
        column = PROMPT + step
        logits.append(model(tokens[:, column : column + 1], **{CACHE: cache}, use_cache=True).logits)
    return torch.cat(logits, 1)


def run_both_phases(model, tokens):
    prompt = model(tokens[:, :PROMPT], use_cache=True)
    return torch.cat([prompt.logits, decode(model, tokens, returned_cache(prompt))], 1)


def run_by_hand(model, tokens, site, sparse_phase):
    """Return the logits and counts of a model that is sparsified while the phase runs, and is not otherwise."""
    sparsifier = sd.sparsify(model, site, RULE)
    if sparse_phase == "prefill":
        with sparsifier:
            prompt = model(tokens[:, :PROMPT], use_cache=True)
        rest = decode(model, tokens, returned_cache(prompt))
    else:
        prompt = model(tokens[:, :PROMPT], use_cache=True)
        with sparsifier:
            rest = decode(model, tokens, returned_cache(prompt))
    return torch.cat([prompt.logits, rest], 1), sparsifier.stats()


@pytest.mark.parametrize("phase", ["prefill", "generation"])
@pytest.mark.parametrize("rows", [1, 3], ids=["one row", "several rows"])
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_one_phase_equals_a_sparsifier_that_is_attached_during_that_phase(
    name, rows, phase, tokens, fast_decode, request
):
    model = request.getfixturevalue(name)
    rows = tokens[:rows]
    for site in SITES if name != "gpt2" else ("input",):
        expected, expected_counts = run_by_hand(model, rows, site, phase)
        with sd.sparsify(model, site, RULE, phases=phase) as sparsifier:
            logits = run_both_phases(model, rows)
        assert torch.equal(logits, expected)
        assert sparsifier.stats().equals(expected_counts)
        assert set(expected_counts["phase"]) == {phase}
        assert not torch.equal(logits, run_both_phases(model, rows))


@torch.inference_mode()
def test_both_phases_are_the_default(llama, tokens):
    expected = sd.sparsify(llama, "input", RULE)
    with expected:
        logits = run_both_phases(llama, tokens)
    with sd.sparsify(llama, "input", RULE, phases=("generation", "prefill")) as sparsifier:
        assert torch.equal(run_both_phases(llama, tokens), logits)
    assert sparsifier.stats().equals(expected.stats())
    assert repr(sparsifier) == repr(expected)


@pytest.mark.parametrize("phase", ["prefill", "generation"])
@torch.inference_mode()
def test_generate_with_left_padding_counts_the_real_tokens_of_one_phase(llama, tokens, phase):
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    arguments = {"attention_mask": mask, "max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    with sd.sparsify(llama, "input", RULE, phases=phase) as sparsifier:
        llama.generate(tokens, **arguments)
    expected = {"prefill": int(mask.sum()), "generation": 2 * len(tokens)}
    assert sparsifier.stats().groupby("phase")["tokens"].first().to_dict() == {phase: expected[phase]}


@torch.inference_mode()
def test_compiled_code_learns_the_phase_from_the_length_of_the_cache_on_the_device(own_llama, tokens):
    """Its length is a tensor there, so one piece of code serves both phases."""
    own_llama.model.layers = own_llama.model.layers[:1]
    own_llama.config.num_hidden_layers = 1
    phase = "prefill"

    def run(model):
        cache = StaticCache(own_llama.config, max_cache_len=16)
        first = model(tokens[:, :1], **{CACHE: cache}).logits
        return torch.cat([first, model(tokens[:, 1:2], **{CACHE: cache}).logits], 1)

    with sd.sparsify(own_llama, "input", RULE, phases=phase, track_usage=True) as expected:
        logits = run(own_llama)
    with sd.sparsify(own_llama, "input", RULE, phases=phase, track_usage=True) as sparsifier:
        torch.compiler.reset()
        torch.testing.assert_close(run(torch.compile(own_llama, backend="eager")), logits)
    torch.compiler.reset()
    assert sparsifier.stats().equals(expected.stats())
    assert sparsifier.usage()[0].tokens == expected.usage()[0].tokens == len(tokens)
    assert torch.equal(sparsifier.usage()[0].kept, expected.usage()[0].kept)


@pytest.mark.parametrize("phase", ["prefill", "generation"])
def test_packed_sequences_are_sparse_in_one_phase(own_llama, phase):
    """Continuous batching packs prompts and single new tokens of several sequences into one forward pass."""
    model = copy.deepcopy(own_llama)
    model.set_attn_implementation("eager")
    arguments = {
        "inputs": [[3, 4], [5, 6, 7], [8, 9, 10, 11]],
        "generation_config": GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0),
        "continuous_batching_config": ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64),
        "progress_bar": False,
    }
    with sd.sparsify(model, "input", sd.TopK(0.5), phases=phase) as sparsifier:
        model.generate_batch(**arguments)
    table = sparsifier.stats()
    tokens = {"prefill": 9, "generation": 3 * 4}
    assert table.groupby("phase")["tokens"].first().to_dict() == {phase: tokens[phase]}
    assert set(table["sparsity"]) == {0.5}


@pytest.mark.parametrize("phase", ["prefill", "generation"])
@pytest.mark.parametrize("known_on", ["host", "device"])
@torch.inference_mode()
def test_stacked_experts_are_sparse_in_one_phase(tokens, phase, known_on, monkeypatch):
    model = build_model("qwen3_moe")
    expected, expected_counts = run_by_hand(model, tokens, "all_inputs", phase)
    if known_on == "device":
        from sparsedial.hooks import context_reader

        read_cache = context_reader.read_cache

        def read_on_device(cache):
            state = read_cache(cache)
            return type(state)(torch.tensor(state.is_filled), torch.tensor(state.length))

        monkeypatch.setattr(context_reader, "read_cache", read_on_device)
    with sd.sparsify(model, "all_inputs", RULE, phases=phase) as sparsifier:
        logits = run_both_phases(model, tokens)
    assert torch.equal(logits, expected)
    columns = ["module", "vector", "dropped", "total", "tokens"]
    assert sparsifier.stats()[columns].equals(expected_counts[columns])


@torch.inference_mode()
def test_vectors_that_cannot_be_assigned_to_tokens_are_an_error():
    flags = torch.tensor([[True, False, True]])
    vectors = torch.ones(1, 3, 2)
    mixed = restore_dense_vectors(vectors, 0 * vectors, flags, "mlp")
    assert mixed[0, :, 0].tolist() == [0, 1, 0]
    by_index = restore_dense_vectors(vectors[0, :2], 0 * vectors[0, :2], flags, "mlp", torch.tensor([1, 2]))
    assert by_index[:, 0].tolist() == [1, 0]
    with pytest.raises(AttachError, match=r"mlp: its 4 vectors.*3 tokens.*observe\(phase="):
        restore_dense_vectors(torch.ones(4, 2), torch.zeros(4, 2), flags, "mlp")


@torch.no_grad()
def test_a_single_layer_and_an_encoder_are_in_prefill(llama):
    ffn = llama.model.layers[0].mlp
    x = torch.randn(3, 32)
    with sd.sparsify(llama, "input", RULE, phases="generation") as sparsifier:
        assert torch.equal(ffn(x), ffn.down_proj(ffn.act_fn(ffn.gate_proj(x)) * ffn.up_proj(x)))
        with sparsifier.observe(phase="generation"):
            sparse = ffn(x)
    assert sparsifier.stats()["tokens"].tolist() == [3]
    assert not torch.equal(sparse, ffn(x))
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    ffns = sd.find_ffns(encoder, inputs={"src": torch.randn(1, 4, 16)})
    batch = torch.randn(2, 4, 16)
    with sd.sparsify(encoder, "input", sd.TopP(1), ffns=ffns):
        dense = encoder(batch)
    with sd.sparsify(encoder, "input", RULE, ffns=ffns, phases="generation") as sparsifier:
        assert torch.equal(encoder(batch), dense)
    with pytest.raises(AttachError, match="in generation only, and no forward pass"):
        sparsifier.stats()


def test_a_repeated_part_of_a_forward_pass_has_its_phase(own_llama, tokens):
    """Gradient checkpointing runs each layer again in the backward pass."""
    own_llama.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(own_llama, "activation_checkpointing_enable", None)  # its name in newer versions
            (enable or own_llama.gradient_checkpointing_enable)()
        own_llama.zero_grad()
        with sd.sparsify(own_llama, "input", RULE, phases="prefill") as sparsifier:
            own_llama(tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append(own_llama.model.layers[0].mlp.up_proj.weight.grad.clone())
        assert sparsifier.stats()["tokens"].tolist() == [tokens.numel()] * 3
    assert torch.equal(*gradients)


def test_denoising_steps_have_no_phases(masked_llama, tokens):
    with sd.sparsify(masked_llama, "input", RULE, phases="prefill") as sparsifier:
        MaskReuse(2).attach(sparsifier)
        with sparsifier.observe(step=0), pytest.raises(SpecError, match=r"denoising step.*no phases"):
            masked_llama(tokens)
        masked_llama(tokens)
    assert sparsifier.stats()["tokens"].tolist() == [tokens.numel()] * 2


@torch.no_grad()
def test_a_phase_that_did_not_occur_is_named(llama, tokens):
    with sd.sparsify(llama, "input", RULE, phases="generation") as sparsifier:
        dense = llama(tokens).logits
    with pytest.raises(AttachError, match="applied in generation only, and no forward pass of the model was in this"):
        sparsifier.stats()
    assert torch.equal(dense, llama(tokens).logits)
    sparsifier.reset()
    with pytest.raises(AttachError, match="run the model inside the `with` block"):
        sparsifier.stats()


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("prefil", "unknown phase 'prefil'.*prefill, generation.*Did you mean"),
        ((), "no phase is named"),
        ([None], "unknown phase None"),
        (3, "phases=3: expected"),
    ],
)
def test_unknown_phases_are_an_error(llama, phases, message):
    with pytest.raises(SpecError, match=message):
        sd.sparsify(llama, "input", RULE, phases=phases)


def test_a_selection_has_the_order_of_the_phases():
    assert select_phases(["generation", "prefill", "generation"]) == PhaseSelection()
    assert not select_phases("generation").is_sparse(ForwardContext())
    assert "phases=('generation',)" in repr(PhaseSelection(("generation",)))
