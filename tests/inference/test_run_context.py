"""The settings that all forward passes of an evaluation share."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.inference.run_context import RunContext, ignore_progress


def test_the_phase_reaches_the_sparsifier(llama, tokens):
    with (
        sd.sparsify(llama, "input", sd.TopK(0.5)) as sparsifier,
        RunContext(sparsifier).observe(phase="generation"),
        torch.no_grad(),
    ):
        llama(tokens)
    assert set(sparsifier.stats()["phase"]) == {"generation"}
    with pytest.raises(SpecError, match="Unknown phase"), RunContext(sparsifier).observe(phase="training"):
        pass


def test_a_dense_model_is_not_observed(llama, tokens):
    with RunContext().observe(phase="generation"), torch.no_grad():
        llama(tokens)


def test_parts_change_nothing_but_the_progress():
    reports = []
    run = RunContext(progress=lambda completed, total: reports.append((completed, total)), batch_tokens=7, seed=3)
    part = run.part(start=10, total=16)
    part.progress(2, 6)
    assert reports == [(12, 16)]
    assert (part.batch_tokens, part.seed) == (7, 3)
    assert run.without_progress() == RunContext(progress=ignore_progress, batch_tokens=7, seed=3)
