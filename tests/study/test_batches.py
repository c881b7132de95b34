"""The batch of a study: not part of a key, recorded in the trial, and smaller if memory runs out."""

import dataclasses

import pytest
import torch

from sparsedial.rules import TopP
from sparsedial.study.runner import run_study
from sparsedial.study.trial_evaluation import Trial
from sparsedial.tasks.batch_option import BatchedTask
from sparsedial.tasks.registry import BUILTIN_TASKS
from tests.support.tasks import make_task

ROOM = 2
"""Rows that fit into the memory of `tight`."""


@pytest.fixture
def tight(monkeypatch):
    """Let a forward pass of more than `ROOM` rows run out of memory in the middle of the model."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    forward = LlamaDecoderLayer.forward
    counts = {"failed": 0}

    def limited_forward(self, hidden_states, *args, **kwargs):
        if self.self_attn.layer_idx == 1 and len(hidden_states) > ROOM and hidden_states.shape[1] > 1:
            counts["failed"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", limited_forward)
    return counts


def with_batch(spec, batch):
    return dataclasses.replace(spec, task_options={**spec.task_options, "batch": batch})


def by_key(store):
    return {record.key: record for record in store.trials()}


def test_smaller_batches_give_the_same_counts_and_are_recorded(spec, tmp_path, tight, monkeypatch):
    found = by_key(run_study(with_batch(spec, 8), tmp_path / "tight", device="cpu"))
    assert tight["failed"] == 2  # 8 and 4 rows of the dense trial; later trials start with 2
    monkeypatch.undo()
    expected = by_key(run_study(with_batch(spec, ROOM), tmp_path / "small", device="cpu"))
    assert found.keys() == expected.keys()
    for key, record in found.items():
        assert record.result == expected[key].result
        assert record.counts == expected[key].counts
        assert record.result.batch == ROOM


def test_memory_that_runs_out_in_a_sparse_trial_counts_nothing_twice(spec, tmp_path, monkeypatch):
    """The first forward pass of every sparse trial fails in the middle of the model."""
    expected = by_key(run_study(with_batch(spec, 4), tmp_path / "small", device="cpu"))
    evaluate = Trial._evaluate
    failing = set()

    def evaluate_once_in_vain(self, lm, ffns, examples, progress):
        if self.rule is None or (self.site, self.rule) in failing:
            return evaluate(self, lm, ffns, examples, progress)
        failing.add((self.site, self.rule))
        layer = lm.model.model.layers[-1]

        def fail(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        handle = layer.register_forward_hook(fail)
        try:
            return evaluate(self, lm, ffns, examples, progress)
        finally:
            handle.remove()

    monkeypatch.setattr(Trial, "_evaluate", evaluate_once_in_vain)
    found = by_key(run_study(with_batch(spec, 8), tmp_path / "tight", device="cpu"))
    assert failing == {(site, TopP(p)) for site in ("input", "intermediate") for p in (0.9, 0.5)}
    for key, record in found.items():
        assert record.counts == expected[key].counts


def test_another_batch_starts_nothing_over(spec, tmp_path, monkeypatch):
    first = by_key(run_study(with_batch(spec, 3), tmp_path, device="cpu"))

    def fail(*_args, **_kwargs):
        raise AssertionError("a finished trial was run again")

    monkeypatch.setattr(Trial, "run", fail)
    for batch in (8, "auto"):
        assert by_key(run_study(with_batch(spec, batch), tmp_path, device="cpu")) == first


def test_the_batch_is_logged_once_per_task(spec, tmp_path):
    from tests.study.test_precision_summary import Log

    log = Log()
    run_study(with_batch(spec, "auto"), tmp_path, device="cpu", listener=log)
    assert [line.split(": ")[-1] for line in log.lines if "rows per forward" in line] == [
        "batch of at most 8 rows per forward pass"
    ]


@pytest.mark.parametrize("name", [definition.name for definition in BUILTIN_TASKS])
def test_the_batch_is_no_part_of_the_identity_of_a_task(name):
    task = make_task(name, batch=3)
    assert isinstance(task, BatchedTask)
    assert task.identity() == make_task(name).identity() == make_task(name, batch="auto").identity()
    assert task.with_batch(5) == make_task(name, batch=5)


@pytest.mark.parametrize("name", ["self_prediction", "next_token"])
def test_prepared_examples_do_not_depend_on_the_batch(name):
    from sparsedial.models.loading import load_language_model
    from sparsedial.models.sources import resolve_source

    lm = load_language_model(resolve_source("zoo:dense-0.4m"), device="cpu", dtype="bfloat16")
    options = {"length": 6, **({"sequences": 9} if name == "self_prediction" else {"limit": 9})}
    assert make_task(name, batch=1, **options).prepare(lm) == make_task(name, batch=8, **options).prepare(lm)


@pytest.mark.parametrize("room", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_sampling_that_runs_out_of_memory_is_repeated_with_fewer_rows(spec, tmp_path, monkeypatch, room):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    expected = by_key(run_study(with_batch(spec, 1), tmp_path / "usual", device="cpu"))
    forward = LlamaDecoderLayer.forward
    failed = []

    def limited_forward(self, hidden_states, *args, **kwargs):
        if len(hidden_states) > room and hidden_states.shape[1] == 1:  # a step of the sampling
            failed.append(len(hidden_states))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", limited_forward)
    found = by_key(run_study(with_batch(spec, 1), tmp_path / "limited", device="cpu"))
    assert failed == [8, 4, 2][: 3 if room == 1 else 2]
    assert {key: record.result for key, record in found.items()} == {
        key: record.result for key, record in expected.items()
    }
