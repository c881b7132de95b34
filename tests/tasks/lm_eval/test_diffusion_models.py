"""Tasks of lm-eval with a masked diffusion model: every kind of request, by Monte Carlo or by denoising."""

import importlib
import json

import numpy as np
import pytest
import torch
import yaml

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.hooks.step_overlap import KeptSetOverlap
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.masked_diffusion import denoise
from sparsedial.inference.masked_diffusion_likelihood import estimate_loglikelihoods
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from tests.support.tasks import make_task

DOCUMENTS = [
    {"question": "The lighthouse keeper climbed the", "options": ["stairs", "the of and", "purple"], "gold": 0},
    {"question": "A dog likes to", "options": ["run", "running is very much of a thing"], "gold": 0},
    {"question": "One, two,", "options": ["three", "the"], "gold": 0},
]
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS = {
    "drawn_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "gold",
        "doc_to_choice": "{{options}}",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "drawn_last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{options[gold]}}",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "drawn_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "drawn_write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{options[gold]}}",
        "generation_kwargs": {"until": ["."], "do_sample": False, "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match", **MEAN}],
    },
}


@pytest.fixture(scope="module")
def lm():
    return load_language_model(resolve_source("zoo:diffusion-1.3m"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **task}))
    return folder


def make_drawn_task(folder, name, **options):
    return make_task(name, include_path=str(folder), **{"mc_samples": 8, **options})


def first_responses(task, lm, examples):
    return [responses[0] for responses in task.answer(lm, examples).responses]


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_runs_dense_and_sparse(folder, lm, name):
    task = make_drawn_task(folder, name)
    examples = json.loads(json.dumps(task.prepare(lm)))
    dense = task.score(lm, examples)
    assert len(dense.values) == len(DOCUMENTS)
    assert np.array_equal(task.score(lm, examples).values, dense.values)  # the masks are the same
    for p in (1.0, 0.6):
        with sd.sparsify(lm.model, "all_inputs", sd.TopP(p)) as sparsifier:
            overlap = KeptSetOverlap(sparsifier)
            sparse = task.score(lm, examples, sparsifier)
        if p == 1.0:
            assert np.array_equal(sparse.values, dense.values)
            assert dict(sparse.details) == dict(dense.details)
        table = sparsifier.stats()
        has_steps = name in ("drawn_write", "drawn_last")  # Monte Carlo samples are not denoising steps
        assert table["step"].notna().any() == has_steps
        assert bool(overlap.usage()) == has_steps


def test_a_choice_is_answered_by_monte_carlo(folder, lm):
    task = make_drawn_task(folder, "drawn_choice", guidance=0.5, seed=3)
    examples = task.prepare(lm)
    windows = []
    for request in examples["requests"]:
        for context, continuation in request["windows"]:
            windows.append(Window(examples["contexts"][context], continuation))
    model = MaskedDiffusionModel.from_language_model(lm)
    expected = estimate_loglikelihoods(model, windows, samples=8, guidance=0.5, run=RunContext(seed=3))
    responses = first_responses(task, lm, examples)
    np.testing.assert_allclose([loglikelihood for loglikelihood, _ in responses], expected, rtol=1e-6)
    assert not any(is_greedy for _, is_greedy in responses)  # the task does not need it, and it is expensive


def test_a_task_that_needs_greediness_gets_it(folder, lm):
    task = make_drawn_task(folder, "drawn_last")
    examples = task.prepare(lm)
    request = examples["requests"][0]
    context = examples["contexts"][request["windows"][0][0]]
    model = MaskedDiffusionModel.from_language_model(lm)
    generated = denoise(model, torch.tensor([context]), 1, DenoisingConfig(), [0]).tokens[0, -1:].tolist()
    request["windows"][0][1] = generated
    assert first_responses(task, lm, examples)[0][1] is True


def test_an_exception_during_generation_is_never_an_answer(folder, lm, monkeypatch):
    task = make_drawn_task(folder, "drawn_write")
    examples = task.prepare(lm)

    def run_out_of_memory(*_args, **_kwargs):
        raise RuntimeError("out of memory, for example")

    monkeypatch.setattr(lm.model, "forward", run_out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory, for example"):
        task.score(lm, examples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 5}, "block length 5 does not divide 12 tokens"),
        ({"diffusion_steps": 24}, "24 denoising steps for 12 tokens"),
    ],
)
def test_a_schedule_that_does_not_fit_the_task_is_an_error_before_anything_runs(folder, lm, options, message):
    with pytest.raises(SpecError, match=message):
        make_drawn_task(folder, "drawn_write", **options).prepare(lm)


def test_diffusion_options_are_part_of_the_identity_of_a_task(folder):
    default = make_drawn_task(folder, "drawn_choice", mc_samples=128).identity()
    assert "diffusion" not in default  # so that trials of causal models keep their identities
    other = make_drawn_task(folder, "drawn_choice", mc_samples=64).identity()
    assert other["diffusion"]["mc_samples"] == 64


@pytest.mark.parametrize("name", ["drawn_choice", "drawn_last", "drawn_write"])
def test_lm_evals_own_command_line_gives_the_same(folder, lm, name):
    with silence_lm_eval():
        import lm_eval
        from lm_eval.tasks import TaskManager

        importlib.import_module("sparsedial.tasks.lm_eval.model_plugin")  # registers the model with lm-eval
        output = lm_eval.simple_evaluate(
            model="sparsedial",
            model_args="pretrained=zoo:diffusion-1.3m,dtype=float32,site=input,p=0.9,mc_samples=8",
            tasks=[name],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            device="cpu",
        )
    task = make_drawn_task(folder, name)
    with sd.sparsify(lm.model, "input", sd.TopP(0.9)) as sparsifier:
        scores = task.score(lm, task.prepare(lm), sparsifier)
    assert output["results"][name][f"{task.metric.name},{task.metric.filter}"] == pytest.approx(scores.mean)
    assert output["config"]["sparsedial"]["sparsity"] == pytest.approx(sparsifier.sparsity(), abs=0.01)
