"""Requests that a block diffusion model answers, and those that it cannot answer."""

import pytest

import sparsedial as sd
from sparsedial.errors import ModelError, TaskError
from sparsedial.hooks.step_overlap import KeptSetOverlap
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.generation import Prompt
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.self_prediction import SelfPrediction
from tests.support.tiny_diffusion_gemma import (
    BLOCK_DIFFUSION_MARKS,
    as_language_model,
    find_dense_ffns,
    make_diffusion_gemma,
)

pytestmark = BLOCK_DIFFUSION_MARKS


class NumberTokenizer:
    """Decodes token ids to their numbers."""

    eos_token_id = 1

    def decode(self, tokens):
        return " ".join(map(str, tokens))


@pytest.fixture(scope="module")
def lm():
    return as_language_model(make_diffusion_gemma(), NumberTokenizer())


def test_it_generates_texts(lm):
    backend = make_backend(lm, DiffusionOptions(DenoisingConfig(steps=3)))
    prompts = [Prompt([3, 4, 5], (), 8), Prompt([6, 7], ("9",), 12)]
    with sd.sparsify(lm.model, "intermediate", sd.TopP(0.9), ffns=find_dense_ffns(lm.model)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        texts = backend.generate(prompts, RunContext(sparsifier, seed=3))
    assert [len(text.tokens) <= prompt.limit for text, prompt in zip(texts, prompts, strict=True)] == [True, True]
    assert set(overlap.table()["step"]) <= {0, 1, 2}
    dense = backend.generate(prompts, RunContext(seed=3))
    assert backend.generate(prompts, RunContext(seed=3)) == dense


def test_log_likelihoods_are_an_error(lm):
    backend = make_backend(lm)
    assert backend.max_shared_length([], max_length=100, batch_tokens=512) == 0
    backend.check_requests("writing", needs_loglikelihoods=False, generation_lengths=[7])
    with pytest.raises(TaskError, match="task 'choice' asks for log-likelihoods, but 'gemma' is a block-diffusion"):
        backend.check_requests("choice", needs_loglikelihoods=True, generation_lengths=[])
    settings = {"max_length": 64, "max_shared_length": 0, "need_greedy": False, "run": RunContext()}
    assert backend.loglikelihoods([], **settings) == []
    with pytest.raises(TaskError, match="cannot compute log-likelihoods"):
        backend.loglikelihoods([[Window([5], [6])]], **settings)


@pytest.mark.parametrize(
    ("task", "error"),
    [
        (SelfPrediction(sequences=2, length=4), TaskError),
        (Restoration(sequences=2, length=4), ModelError),
        (NextToken(length=4), TaskError),
    ],
    ids=["self_prediction", "restoration", "next_token"],
)
def test_tasks_for_other_kinds_of_models_are_an_error(lm, task, error):
    with pytest.raises(error, match=r"not causal|block-diffusion"):
        task.prepare(lm)
