"""Probabilities under the dense model, compared with the softmax of all its logits."""

import copy
import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import sparsedial as sd
from sparsedial.errors import NonFiniteOutputError
from sparsedial.inference import dense_reference, next_token_prediction, token_likelihood
from sparsedial.inference.dense_reference import TOP_TOKENS, find_largest, reference_key
from sparsedial.inference.next_token_prediction import compute_dense_reference, find_dense_reference
from sparsedial.models.loading import LanguageModel
from sparsedial.models.sources import Source
from tests.support.simulated_device import COPY, DEVICE, WAIT, DeviceLog

SIZES = {"vocab_size": 160, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
ARCHITECTURES = {
    "llama": {"tie_word_embeddings": False},
    "llama tied": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 80, "word_embed_proj_dim": 32},
}


def language_model(model, dtype="float32"):
    return LanguageModel(model, None, Source("tiny", Path(), "test", "0" * 64), dtype, torch.device("cpu"))


def build(architecture, dtype=torch.float32):
    """Return a random model whose logits differ enough to have improbable tokens."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture.split()[0], **SIZES, **ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.get_output_embeddings().parameters():
        parameter.data.mul_(20)
    return language_model(model.to(dtype))


def draw_inputs(rows=5, length=9):
    return torch.randint(3, 160, (rows, length), generator=torch.Generator().manual_seed(1))


def dense_probabilities(lm, inputs):
    """Return the softmax of all logits, shape [rows, tokens, vocabulary]."""
    with torch.no_grad():
        return lm.model(input_ids=inputs, use_cache=False).logits.float().softmax(-1)


def check_all_tokens(lm, reference, inputs, tolerance=1e-4):
    """Compare the probability of every token of the vocabulary with the softmax."""
    expected = dense_probabilities(lm, inputs)
    for token in range(0, expected.shape[-1], 3):
        found = reference.find_probabilities(lm, torch.full_like(inputs, token))
        torch.testing.assert_close(found, expected[..., token], rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("largest_subset", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_probabilities_are_the_softmax_of_all_logits(architecture, largest_subset, monkeypatch):
    monkeypatch.setattr(dense_reference, "MAX_SUBSET", largest_subset)
    lm = build(architecture)
    inputs = draw_inputs()
    reference = compute_dense_reference(lm, inputs, batch=2)
    assert reference.stage is not None
    check_all_tokens(lm, reference, inputs)


def test_a_scale_after_the_output_embedding_is_part_of_the_probabilities():
    changed = build("granite")
    changed.model.config.logits_scaling = 1.0
    inputs = draw_inputs()
    found = compute_dense_reference(build("granite"), inputs, 2).best_probabilities
    assert (found - dense_probabilities(changed, inputs).amax(-1)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_exact_up_to_the_rounding_of_logits(dtype):
    lm = build("llama", dtype)
    inputs = draw_inputs()
    reference = compute_dense_reference(lm, inputs, batch=2)
    assert reference.hidden.dtype == dtype
    check_all_tokens(lm, reference, inputs, tolerance=0.1 if dtype == torch.bfloat16 else 1e-4)


def test_without_an_output_stage_sequences_are_repeated(monkeypatch):
    monkeypatch.setattr(next_token_prediction, "match_output_stage", lambda *_: None)
    lm = build("gemma2")
    inputs = draw_inputs()
    reference = compute_dense_reference(lm, inputs, batch=2)
    assert reference.hidden is None
    check_all_tokens(lm, reference, inputs)
    with sd.sparsify(lm.model, "input", sd.TopP(0.3)) as sparsifier:
        lm.model(inputs)
        check_counts_unchanged(lm, sparsifier, reference, inputs)


def check_counts_unchanged(lm, sparsifier, reference, inputs):
    """Check that looking up an improbable token neither counts nor sees the attached sparsifier."""
    unlikely = dense_probabilities_paused(lm, inputs).argmin(-1)
    assert not (reference.top_tokens == unlikely[..., None]).any()
    before = sparsifier.stats()
    found = reference.find_probabilities(lm, unlikely)
    assert sparsifier.stats().equals(before)
    expected = dense_probabilities_paused(lm, inputs).gather(-1, unlikely[..., None])[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12)


def dense_probabilities_paused(lm, inputs):
    with sd.hooks.pause_sparsifiers():
        return dense_probabilities(lm, inputs)


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
@pytest.mark.parametrize("site", ["input", "gate", "all_inputs"])
def test_an_attached_sparsifier_changes_nothing_and_counts_nothing(architecture, site):
    lm = build(architecture)
    inputs = draw_inputs()
    expected = compute_dense_reference(lm, inputs, batch=2)
    with sd.sparsify(lm.model, site, sd.TopP(0.3)) as sparsifier:
        lm.model(inputs)
        before = sparsifier.stats()
        reference = compute_dense_reference(lm, inputs, batch=2)
        assert sparsifier.stats().equals(before)
        assert torch.equal(reference.top_probabilities, expected.top_probabilities)
        check_counts_unchanged(lm, sparsifier, reference, inputs)


def test_the_arg_max_has_exactly_the_highest_probability_also_among_equal_logits():
    lm = build("llama")
    lm.model.get_output_embeddings().weight.data[:] = lm.model.get_output_embeddings().weight[:1].clone()
    inputs = draw_inputs()
    with torch.no_grad():
        best = lm.model(inputs).logits.argmax(-1)
    reference = compute_dense_reference(lm, inputs, batch=5)
    for token in (0, 80, 159):
        found = reference.find_probabilities(lm, torch.full_like(inputs, token))
        assert (found <= reference.best_probabilities).all()
        torch.testing.assert_close(found, torch.full_like(found, 1 / 160))
    assert torch.equal(reference.find_probabilities(lm, best), reference.best_probabilities)


def test_a_vocabulary_smaller_than_the_number_of_kept_tokens_is_kept_whole():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": TOP_TOKENS - 2})
    lm = language_model(AutoModelForCausalLM.from_config(config).eval())
    inputs = draw_inputs() % (TOP_TOKENS - 2)
    check_all_tokens(lm, compute_dense_reference(lm, inputs, batch=2), inputs)


def test_no_tensor_with_the_vocabulary_is_kept():
    reference = compute_dense_reference(build("llama"), draw_inputs(), batch=2)
    kept = [value for value in vars(reference).values() if isinstance(value, torch.Tensor)]
    assert max(tensor.shape[-1] for tensor in kept) <= TOP_TOKENS + 1
    for tensor in kept:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # not a view of a larger tensor


def test_chunks_do_not_change_the_probabilities(monkeypatch):
    lm = build("llama")
    inputs = draw_inputs()
    monkeypatch.setattr(dense_reference, "LOGITS_PER_CHUNK", 7 * 160)
    monkeypatch.setattr(token_likelihood, "LOGITS_IN_CACHE", 4 * 160)
    check_all_tokens(lm, compute_dense_reference(lm, inputs, batch=3), inputs)


def test_a_reference_is_found_again_for_the_same_model_sequences_and_weights_only():
    lm = build("llama")
    inputs = draw_inputs()
    reference = compute_dense_reference(lm, inputs, batch=2)
    assert find_dense_reference(lm, inputs.clone(), 2) is reference
    assert find_dense_reference(lm, inputs[:3], 2) is not reference
    assert find_dense_reference(replace(lm, model=copy.deepcopy(lm.model)), inputs, 2) is not reference
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.mul_(2)
    doubled = find_dense_reference(lm, inputs, 2)
    np.testing.assert_allclose(doubled.best_probabilities, dense_probabilities(lm, inputs).amax(-1), rtol=1e-4)


def test_the_device_summarizes_the_first_logits_while_the_host_checks_the_output_stage():
    lm = build("gemma2")
    lm = replace(lm, model=lm.model.to(DEVICE), device=DEVICE)
    inputs = draw_inputs()
    with DeviceLog() as log:
        reference = compute_dense_reference(lm, inputs, batch=2, targets=inputs)
    assert reference.stage is not None and reference.stage.is_divisible
    own_waits = count_waits_of_forward(lm, inputs)
    events = log.events
    first_prediction = events.index("argmax")
    assert events[:first_prediction].count(WAIT) == own_waits + 2  # copies of the inputs and of the targets
    # Each batch waits once to check its numbers, and the first one to check the stage. The last copy waits for all.
    assert events[first_prediction:].count(WAIT) == 2 * own_waits + 3 + 1 + 1
    assert events.count(COPY) == 3 and events[-1] == WAIT
    check_of_numbers = events.index(WAIT, first_prediction)
    check_of_stage = events.index(WAIT, check_of_numbers + 1)
    launched = events[check_of_numbers:check_of_stage]
    assert launched.index("log_softmax") < launched.index("linspace")  # the summary is launched before the check


def count_waits_of_forward(lm, inputs):
    """Return how often the code of the model itself waits for the device in a forward pass."""
    with DeviceLog() as log, torch.inference_mode():
        lm.model(input_ids=inputs.to(DEVICE), use_cache=False)
    return log.events.count(WAIT) - 1  # without the copy of the inputs


def test_the_key_depends_on_every_weight():
    model = build("mixtral").model
    model.model.register_module("missing", None)
    keys = {reference_key(model, "", draw_inputs())}
    parameters = list(model.parameters())
    for parameter in parameters:
        with torch.no_grad():
            parameter.mul_(1)
        keys.add(reference_key(model, "", draw_inputs()))
    assert len(keys) == len(parameters) + 1
    assert reference_key(model, "", draw_inputs()) in keys


def test_the_memory_of_kept_references_is_bounded_and_they_end_with_their_model(monkeypatch):
    lm = build("llama")
    models_before = len(dense_reference._references)
    size = compute_dense_reference(lm, draw_inputs(1), batch=2).size_in_bytes
    monkeypatch.setattr(dense_reference, "MAX_REFERENCE_BYTES", 5 * size)
    kept = dense_reference._references[lm.model]
    for rows in (2, 3, 4):
        latest = compute_dense_reference(lm, draw_inputs(rows), batch=2)
        assert latest.size_in_bytes == rows * size
        assert list(kept.values())[-1] is latest
        assert sum(reference.size_in_bytes for reference in kept.values()) <= 5 * size
    compute_dense_reference(lm, draw_inputs(6), batch=2)  # the latest one is kept, although it is too large
    assert [reference.size_in_bytes for reference in kept.values()] == [6 * size]
    del lm
    gc.collect()
    assert len(dense_reference._references) < models_before + 1


def test_nan_in_the_dense_model_names_the_module():
    lm = build("llama")
    lm.model.model.layers[1].mlp.down_proj.weight.data[3, 5] = torch.nan
    with pytest.raises(NonFiniteOutputError, match=r"down_proj \(Linear\): its weight contains 1 NaN"):
        compute_dense_reference(lm, draw_inputs(), batch=2)


@pytest.mark.parametrize("columns", [40, 64 * 9, 64 * 9 + 17])
def test_the_largest_values_are_those_of_topk(columns):
    count = 4
    values = torch.randint(0, 50, (200, columns)).float()  # with many equal values
    found = values.gather(-1, find_largest(values, count))
    assert torch.equal(found, values.topk(count).values)
