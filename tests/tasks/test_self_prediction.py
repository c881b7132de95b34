"""Self-prediction of causal models, checked against their own logits."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError, TaskError
from sparsedial.models.loading import LanguageModel
from sparsedial.models.sources import Source
from sparsedial.tasks import self_prediction
from sparsedial.tasks.self_prediction import START_TOKENS, SelfPrediction


class Tokenizer:
    """A tokenizer without a BOS token and with two special tokens."""

    bos_token_id = None
    all_special_ids = (0, 95)


def language_model(model, tokenizer=None):
    return LanguageModel(model, tokenizer, Source("tiny", Path(), "test", "0" * 64), "float32", torch.device("cpu"))


def test_sequences_are_the_models_own_and_follow_the_seed(llama):
    lm = language_model(llama)
    task = SelfPrediction(sequences=5, length=7, batch=2)
    examples = task.prepare(lm)
    assert np.shape(examples["tokens"]) == (5, 8)
    assert {row[0] for row in examples["tokens"]} == {1}  # the configuration's BOS
    assert task.prepare(lm) == examples
    assert SelfPrediction(5, 7, seed=1).prepare(lm) != examples


def test_a_sequence_does_not_depend_on_the_number_of_sequences(llama, monkeypatch):
    lm = language_model(llama)
    few = SelfPrediction(sequences=5, length=7).prepare(lm)["tokens"]
    assert SelfPrediction(sequences=9, length=7).prepare(lm)["tokens"][:5] == few
    monkeypatch.setattr(self_prediction, "MAX_SAMPLED_ROWS", 2)
    assert SelfPrediction(sequences=5, length=7).prepare(lm)["tokens"] == few


def test_sampled_frequencies_are_the_models_probabilities(llama):
    lm = language_model(llama)
    tokens = torch.tensor(SelfPrediction(sequences=4000, length=1).prepare(lm)["tokens"])
    with torch.no_grad():
        expected = llama(torch.tensor([[1]])).logits[0, -1].softmax(-1)
    observed = torch.bincount(tokens[:, 1], minlength=96) / len(tokens)
    error = (expected * (1 - expected) / len(tokens)).sqrt()
    assert ((observed - expected).abs() < 5 * error + 1e-4).all()


def test_without_a_bos_the_start_tokens_are_fixed_and_not_special(llama):
    config = llama.config.bos_token_id
    llama.config.bos_token_id = None
    try:
        tokens = SelfPrediction(sequences=100, length=1).prepare(language_model(llama, Tokenizer()))["tokens"]
    finally:
        llama.config.bos_token_id = config
    starts = [row[0] for row in tokens]
    assert len(set(starts)) == START_TOKENS
    assert not {0, 95} & set(starts)
    assert starts[:36] == starts[64:]


def test_the_score_is_the_probability_of_the_arg_max_by_sequence(llama, tokens):
    lm = language_model(llama)
    scores = SelfPrediction(batch=3).score(lm, {"tokens": tokens.tolist()})
    with torch.no_grad():
        expected = llama(tokens).logits.softmax(-1).amax(-1)[:, :-1].double().mean(1)
    np.testing.assert_allclose(scores.values, expected.numpy(), rtol=1e-5)
    assert scores.metric == "expected_agreement"


def test_the_metric_agreement_is_the_share_of_sampled_tokens_that_are_the_arg_max(llama, tokens):
    lm = language_model(llama)
    scores = SelfPrediction(batch=3, metric="agreement").score(lm, {"tokens": tokens.tolist()})
    with torch.no_grad():
        best = llama(tokens).logits.argmax(-1)[:, :-1]
    np.testing.assert_array_equal(scores.values, (best == tokens[:, 1:]).double().mean(1).numpy())
    assert scores.metric == "agreement"


@pytest.mark.parametrize("p", [0.9, 0.5, 0.1, 0.0])
def test_a_sparse_score_is_the_dense_probability_of_the_sparse_arg_max(trained, p):
    task = SelfPrediction(sequences=4, length=24, batch=3)
    examples = task.prepare(trained)
    inputs = torch.tensor(examples["tokens"])[:, :-1]
    with torch.no_grad():
        dense = trained.model(inputs).logits.softmax(-1)
        with sd.sparsify(trained.model, "all_inputs", sd.TopP(p)) as sparsifier:
            best = trained.model(inputs).logits.argmax(-1)
    expected = dense.gather(-1, best[..., None])[..., 0].double().mean(1)
    with sd.sparsify(trained.model, "all_inputs", sd.TopP(p)) as scored:
        scores = task.score(trained, examples, scored)
    np.testing.assert_allclose(scores.values, expected.numpy(), rtol=1e-4)
    assert scored.stats().equals(sparsifier.stats())  # look-ups of probabilities are not counted


def test_the_dense_score_is_the_same_with_and_without_an_earlier_dense_run(trained):
    """A resumed study or another process has no dense run of its own."""
    task = SelfPrediction(sequences=4, length=24)
    examples = task.prepare(trained)
    resumed = replace(trained, model=copy.deepcopy(trained.model))
    task.score(trained, examples)
    values = []
    for lm in (trained, resumed):
        with sd.sparsify(lm.model, "input", sd.TopP(0.8)) as sparsifier:
            values.append(task.score(lm, examples, sparsifier).values)
    np.testing.assert_array_equal(*values)


def test_retention_is_one_at_p_one_and_never_higher(trained):
    task = SelfPrediction(sequences=6, length=24, batch=4)
    examples = task.prepare(trained)
    dense = task.score(trained, examples).values
    for p in (1.0, 0.999, 0.99, 0.95, 0.9, 0.7, 0.4, 0.0):
        with sd.sparsify(trained.model, "input", sd.TopP(p)) as sparsifier:
            sparse = task.score(trained, examples, sparsifier).values
        assert (sparse <= dense).all() and (sparse >= 0).all()
        assert p < 1 or (sparse == dense).all()


def test_the_mean_of_hits_over_sampled_tokens_is_the_expected_agreement(trained):
    """All sequences consist of the BOS token and one sampled token, so that their contexts are the same."""
    task = SelfPrediction(sequences=3000, length=1, batch=3000)
    examples = task.prepare(trained)
    assert len({row[0] for row in examples["tokens"]}) == 1
    for p in (1.0, 0.6):
        with sd.sparsify(trained.model, "input", sd.TopP(p)) as sparsifier:
            expected = task.score(trained, examples, sparsifier).mean
            hits = replace(task, metric="agreement").score(trained, examples, sparsifier).mean
        error = (expected * (1 - expected) / len(examples["tokens"])) ** 0.5
        assert abs(hits - expected) < 4 * error


def test_an_attached_sparsifier_that_is_not_passed_is_measured_as_well(trained):
    task = SelfPrediction(sequences=3, length=12)
    examples = task.prepare(trained)
    with sd.sparsify(trained.model, "input", sd.TopP(0.3)) as sparsifier:
        expected = task.score(trained, examples, sparsifier).values
        np.testing.assert_array_equal(task.score(trained, examples).values, expected)


def test_an_unknown_metric_is_refused():
    with pytest.raises(SpecError, match="metric='hits': expected expected_agreement or agreement"):
        SelfPrediction(metric="hits")


def test_all_but_the_last_token_are_counted_as_prefill(llama, tokens):
    lm = language_model(llama)
    with sd.sparsify(llama, "input", sd.TopP(0.5)) as sparsifier:
        SelfPrediction(batch=3).score(lm, {"tokens": tokens.tolist()}, sparsifier)
    table = sparsifier.stats()
    assert set(table["phase"]) == {"prefill"}
    assert set(table["total"]) == {4 * 11 * 32}


def test_batches_do_not_change_the_scores_beyond_rounding(llama, tokens):
    lm = language_model(llama)
    single = SelfPrediction(batch=1, metric="agreement").score(lm, {"tokens": tokens.tolist()}).values
    batched = SelfPrediction(batch=4, metric="agreement").score(lm, {"tokens": tokens.tolist()}).values
    assert np.abs(single - batched).max() <= 1 / 11


def test_without_a_cache_the_sequences_are_the_same(own_llama):
    task = SelfPrediction(sequences=6, length=8)
    cached = task.prepare(language_model(own_llama))
    own_llama.config.use_cache = False
    assert task.prepare(language_model(own_llama)) == cached


def test_a_model_that_attends_to_later_tokens_is_refused():
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=96)
    with pytest.raises(TaskError, match="not causal"):
        SelfPrediction(2, 4).prepare(language_model(BertLMHeadModel(config).eval()))


def test_a_length_beyond_the_models_positions_is_refused(llama):
    with pytest.raises(TaskError, match="length 500, but the model has 128 positions"):
        SelfPrediction(length=500).prepare(language_model(llama))


@pytest.mark.parametrize("name", ["sequences", "length", "batch"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(SpecError, match=f"{name}=0: expected at least 1"):
        SelfPrediction(**{name: 0})
