"""NaN and Inf in a model: every task refuses to score it, also when it is dense, and names the module."""

import copy
from dataclasses import replace

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import NonFiniteOutputError
from tests.support.diffusion_tasks import make_small_task

CAUSAL_TASKS = ("self_prediction", "next_token")
DIFFUSION_TASKS = ("self_prediction", "restoration", "denoising", "masked_token")
WEIGHT = r"first appear in the output of model.layers.1.mlp.down_proj \(Linear\): its weight contains 1 NaN or Inf"


def with_copied_weights(lm):
    """Return the same model with weights of its own."""
    return replace(lm, model=copy.deepcopy(lm.model))


def break_weight(lm):
    lm.model.model.layers[1].mlp.down_proj.weight.data[3, 5] = torch.nan


@pytest.fixture
def own_causal(trained):
    return with_copied_weights(trained)


@pytest.fixture
def own_diffusion(diffusion_lm):
    return with_copied_weights(diffusion_lm)


def check_refused(task, lm):
    """Check that the task cannot be scored after a weight is broken, nor prepared if it samples from the model."""
    examples = task.prepare(lm)
    break_weight(lm)
    with pytest.raises(NonFiniteOutputError, match=WEIGHT):
        task.score(lm, examples)
    with pytest.raises(NonFiniteOutputError, match=WEIGHT):
        task.score(lm, task.prepare(lm))


@pytest.mark.parametrize("name", CAUSAL_TASKS)
def test_a_dense_causal_model_with_nan_in_a_weight_has_no_score(own_causal, name):
    check_refused(make_small_task(name), own_causal)


@pytest.mark.parametrize("name", DIFFUSION_TASKS)
def test_a_dense_diffusion_model_with_nan_in_a_weight_has_no_score(own_diffusion, name):
    check_refused(make_small_task(name), own_diffusion)


@pytest.mark.parametrize("name", ["denoising", "masked_token"])
def test_a_sparse_diffusion_model_with_nan_in_a_weight_has_no_score(own_diffusion, name):
    task = make_small_task(name)
    examples = task.prepare(own_diffusion)
    break_weight(own_diffusion)
    sparsifier = sd.sparsify(own_diffusion.model, "input", sd.TopP(0.9))
    with sparsifier, pytest.raises(NonFiniteOutputError, match=WEIGHT):
        task.score(own_diffusion, examples, sparsifier)


def test_an_overflow_names_the_module_whose_weights_are_finite(own_causal):
    task = make_small_task("next_token")
    own_causal.model.model.layers[1].mlp.down_proj.weight.data.fill_(1e38)
    with pytest.raises(NonFiniteOutputError, match=r"down_proj \(Linear\), whose weights are finite: .* of float32"):
        task.score(own_causal, task.prepare(own_causal))


def test_an_infinite_logit_is_refused_like_nan(own_causal):
    task = make_small_task("next_token")
    own_causal.model.lm_head.weight = torch.nn.Parameter(own_causal.model.lm_head.weight.clone())
    own_causal.model.lm_head.weight.data[7] = torch.inf
    with pytest.raises(NonFiniteOutputError, match=r"lm_head \(Linear\): its weight contains"):
        task.score(own_causal, task.prepare(own_causal))


def test_nan_in_the_embedding_of_padding_and_unused_tokens_changes_nothing(own_llama, own_causal):
    lm = replace(own_causal, model=own_llama)
    task = make_small_task("next_token", batch=2)
    examples = {"tokens": [[1, 5, 6, 7, 8, 9], [1, 5, 6]]}
    expected = task.score(lm, examples).values
    own_llama.model.embed_tokens.weight.data[[0, *range(10, 96)]] = torch.nan  # token 0 fills the padding
    assert (task.score(lm, examples).values == expected).all()
