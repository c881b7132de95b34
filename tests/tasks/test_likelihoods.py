"""The likelihoods of reference texts that tasks give for each example, against the model's own logits."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.inference import token_likelihood
from sparsedial.inference.token_likelihood import negative_log_likelihoods
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.sources import Source, resolve_source
from sparsedial.tasks.base import LIKELIHOOD_COLUMNS, NLL, NLL_TOKENS
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.self_prediction import SelfPrediction


def language_model(model):
    return LanguageModel(model, None, Source("tiny", Path(), "test", "0" * 64), "float32", torch.device("cpu"))


@torch.no_grad()
def sum_by_definition(model, row):
    """Return the negative log-likelihood of the tokens of one sequence but the first, in float64."""
    tokens = torch.tensor([row])
    log_probabilities = model(input_ids=tokens[:, :-1]).logits.double().log_softmax(-1)
    return -float(log_probabilities.gather(-1, tokens[:, 1:, None]).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_negative_log_likelihoods_are_those_of_float64(dtype, monkeypatch):
    logits = (8 * torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))).to(dtype)
    targets = torch.arange(15).view(3, 5) % 11
    expected = -logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    monkeypatch.setattr(token_likelihood, "LOGITS_IN_CACHE", 4 * 11)  # the last chunk has fewer positions
    torch.testing.assert_close(negative_log_likelihoods(logits, targets).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["expected_agreement", "agreement"])
@pytest.mark.parametrize("rule", [None, sd.TopP(0.6)])
def test_self_prediction_gives_the_likelihoods_of_its_own_samples(llama, metric, rule):
    lm = language_model(llama)
    task = SelfPrediction(sequences=5, length=7, batch=2, metric=metric)
    examples = task.prepare(lm)
    if rule is None:
        columns = task.score(lm, examples).columns
        expected = [sum_by_definition(llama, row) for row in examples["tokens"]]
    else:
        with sd.sparsify(llama, "input", rule) as sparsifier:
            columns = task.score(lm, examples, sparsifier).columns
            expected = [sum_by_definition(llama, row) for row in examples["tokens"]]
    assert tuple(columns) == LIKELIHOOD_COLUMNS
    np.testing.assert_allclose(columns[NLL], expected, rtol=1e-4)
    assert columns[NLL_TOKENS].tolist() == [7.0] * 5


def test_likelihoods_take_no_further_forward_pass(llama):
    lm = language_model(llama)
    task = SelfPrediction(sequences=6, length=7, batch=2, metric="agreement")
    examples = task.prepare(lm)
    passes = []
    with sd.sparsify(llama, "input", sd.TopP(0.6)) as sparsifier:
        hook = llama.register_forward_hook(lambda *_: passes.append(1))
        task.score(lm, examples, sparsifier)
        hook.remove()
    assert len(passes) == 3  # one for each batch


def test_documents_of_different_lengths_have_no_likelihood_of_padding(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("Once upon a time there was a fox.\nA cat.\nThe sun was warm and the day was long.\n")
    lm = load_language_model(resolve_source("zoo:dense-0.4m"), device="cpu", dtype="float32")
    task = NextToken(text=str(texts), length=9)
    examples = task.prepare(lm)
    columns = task.score(lm, examples).columns
    lengths = [len(row) - 1 for row in examples["tokens"]]
    assert len(set(lengths)) > 1
    assert columns[NLL_TOKENS].tolist() == lengths
    expected = [sum_by_definition(lm.model, row) for row in examples["tokens"]]
    np.testing.assert_allclose(columns[NLL], expected, rtol=1e-4)
    assert math.exp(columns[NLL].sum() / sum(lengths)) > 1
