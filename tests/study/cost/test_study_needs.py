"""What a study takes and what cannot be run, for all of its models and tasks."""

import dataclasses

import pytest
import torch

from sparsedial.errors import SparsedialError, SpecError
from sparsedial.models.device_memory import GIB
from sparsedial.study.cost import cards
from sparsedial.study.cost.cards import Card, MeasuredShape, find_card
from sparsedial.study.cost.study_needs import Resources, choose_resources, find_needs
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.runner import run_study
from sparsedial.study.store import Store
from sparsedial.tasks.spec import TaskSpec
from tests.support.lm_eval_tasks import write_tasks

SPEEDS = {"dense": 1e9, "input": 5e8, "intermediate": 2.5e8}
CARD = Card("Test 80GB", "cuda", 80 * GIB, "bfloat16", 64, 0.01, "a test", (MeasuredShape(1e5, False, SPEEDS, SPEEDS),))
CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(cards, "read_cards", lambda: (CARD,))


def find(spec, tmp_path, resources=None):
    return find_needs(spec, Store(tmp_path / "none"), resources or Resources(CARD, CPU, GIB))


def test_trials_memory_and_time_are_stated_for_each_model(spec, tmp_path):
    spec = dataclasses.replace(spec, models=("zoo:dense-0.4m", *spec.models))
    needs = find(spec, tmp_path)
    assert needs.can_run and not (tmp_path / "none").exists()
    assert [model.trials for model in needs.models] == [(5, 5), (5, 5)]
    small, tiny = needs.models
    assert small.memory.weights == 4 * small.parameters and small.memory.total > small.memory.weights
    assert small.download == 2 * small.parameters  # bfloat16 in the file, float32 in the study
    assert needs.time.low == pytest.approx(small.time.low + tiny.time.low)
    store = run_study(spec, tmp_path / "out")
    size = sum(path.stat().st_size for name in ("trials", "samples") for path in (store.folder / name).rglob("*.*"))
    assert 0.3 < needs.disk / size < 3


def test_a_finished_study_takes_no_time(spec, tmp_path):
    store = run_study(spec, tmp_path / "out")
    needs = find_needs(spec, store, Resources(CARD, CPU, GIB))
    assert (needs.models[0].trials, needs.time.high) == ((0, 0), 0)


def test_all_that_cannot_be_run_is_listed_and_the_rest_is_planned(spec, tmp_path):
    write_tasks(tmp_path)
    spec = dataclasses.replace(
        spec,
        models=("org/gated", "zoo:dense-0.4m", "org/missing"),
        tasks=(TaskSpec("tiny_choice"), TaskSpec("tiny_missing"), TaskSpec("no_such_task"), TaskSpec("tiny_write")),
        task_options={"include_path": str(tmp_path)},
    )
    needs = find(spec, tmp_path)
    assert not needs.can_run
    assert [model.problem is None for model in needs.models] == [False, True, False]
    assert [task.problem is None for task in needs.tasks] == [True, False, False, True]
    assert "dataset could not be loaded" in needs.tasks[1].problem
    assert "unknown task" in needs.tasks[2].problem
    assert {job.model for job in needs.preview.jobs} == {"zoo:dense-0.4m"}
    assert {job.task for job in needs.preview.jobs} == {"tiny_choice", "tiny_write"}
    assert needs.models[1].time.high > needs.models[1].time.low > 0


def test_a_set_of_tasks_is_checked_task_by_task(spec, tmp_path):
    needs = find(dataclasses.replace(spec, tasks=(TaskSpec("paper-instruct"),), task_options={}), tmp_path)
    assert [task.spec.name for task in needs.tasks] == ["gsm8k", "ifeval", "mmlu_redux"]
    assert all(task.problem for task in needs.tasks) and needs.preview is None


def test_options_of_tasks_that_cannot_be_run_do_not_stop_the_preview(spec, tmp_path):
    tasks = (TaskSpec("self_prediction"), TaskSpec("no_such_task"))
    options = {**spec.task_options, "limit": 3, "metrics": {"no_such_task": "acc"}}
    needs = find(dataclasses.replace(spec, tasks=tasks, task_options=options), tmp_path)
    assert [task.problem is None for task in needs.tasks] == [True, False]
    alone = find(spec, tmp_path)
    assert needs.preview.jobs == alone.preview.jobs and needs.models[0].trials == alone.models[0].trials


def test_a_study_of_a_phase_or_of_the_kernels_lists_what_lacks_them(spec, tmp_path):
    models = ("zoo:dense-0.4m", "zoo:diffusion-1.3m", "zoo:moe-5m")
    spec = dataclasses.replace(spec, models=models, sites=None)
    accelerated = dataclasses.replace(spec, accelerated=True)
    needs = find(accelerated, tmp_path)
    assert [model.problem is None for model in needs.models] == [True, True, False]
    assert "has experts" in needs.models[2].problem
    assert {job.site for job in needs.preview.jobs} == {None, "input", "intermediate", "all_inputs"}
    needs = find(dataclasses.replace(accelerated, dtype="float64"), tmp_path)
    assert "dtype" in needs.models[0].problem
    needs = find(dataclasses.replace(spec, phases=("prefill",)), tmp_path)
    assert [model.problem is None for model in needs.models] == [True, False, True]
    assert "masked-diffusion model" in needs.models[1].problem
    needs = find(dataclasses.replace(spec, phases=("generation",)), tmp_path)
    assert "would be dense" in needs.tasks[0].problem and needs.preview is None


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ("zoo:diffusion-1.3m", "next_token", "next_token: model '{}' is masked-diffusion: use masked_token instead"),
        ("zoo:dense-0.4m", "masked_token", "model '{}' is causal: expected a masked-diffusion model"),
        ("zoo:dense-0.4m", "restoration", "model '{}' is causal: expected a masked-diffusion model"),
        ("zoo:dense-0.4m", "denoising", "model '{}' is causal: expected a masked-diffusion model"),
    ],
)
def test_a_task_for_another_kind_of_model_is_listed_as_in_the_run(spec, tmp_path, model, task, message):
    spec = dataclasses.replace(spec, models=(model,), tasks=(TaskSpec(task),), task_options={"length": 6})
    assert find(spec, tmp_path).models[0].problem == message.format(model)
    with pytest.raises(SparsedialError) as error:
        run_study(spec, tmp_path / "out", device="cpu")
    assert str(error.value) == message.format(model)


def test_perplexity_needs_a_task_with_likelihoods_and_a_model_that_gives_them(spec, tmp_path):
    spec = dataclasses.replace(spec, criterion="perplexity", models=("zoo:dense-0.4m", "zoo:diffusion-1.3m"))
    needs = find(spec, tmp_path)
    assert [model.problem is None for model in needs.models] == [True, False]
    assert "'zoo:diffusion-1.3m' is a masked-diffusion model" in needs.models[1].problem
    write_tasks(tmp_path)
    options = {"include_path": str(tmp_path)}
    needs = find(dataclasses.replace(spec, tasks=(TaskSpec("tiny_choice"),), task_options=options), tmp_path)
    assert "no task has a text whose perplexity can be measured: tiny_choice" in needs.general_problem
    assert [model.problem for model in needs.models] == [None, None]


def test_a_model_that_is_too_large_is_named_with_the_number_of_devices(spec, tmp_path):
    spec = dataclasses.replace(spec, models=("zoo:dense-5m", *spec.models))
    weights = 4 * find(spec, tmp_path).models[0].parameters
    needs = find(spec, tmp_path, Resources(CARD, CPU, int(0.9 * weights)))
    assert needs.models[0].problem and "of them for each worker (--device spread" in needs.models[0].problem
    assert not needs.can_run


def test_a_batch_that_does_not_fit_is_a_note(spec, tmp_path):
    whole = find(spec, tmp_path).models[0].memory
    needs = find(spec, tmp_path, Resources(CARD, CPU, whole.total - 1))
    assert needs.can_run
    assert any("smaller batches will be used" in note for note in needs.models[0].notes)


def test_time_follows_the_speed_at_each_site_and_the_number_of_examples(spec, tmp_path):
    def seconds(**changes):
        resources = Resources(dataclasses.replace(CARD, trial_seconds=0.0), CPU, GIB)
        return find(dataclasses.replace(spec, **changes), tmp_path, resources).time.low

    options = {"sequences": 64, "length": 6}
    sampling = seconds(sites=("input",), values=(0.5,), task_options=options)
    one = seconds(sites=("input",), values=(0.5, 0.9), task_options=options) - sampling
    other = seconds(sites=("intermediate",), values=(0.5, 0.9), task_options=options)
    other -= seconds(sites=("intermediate",), values=(0.5,), task_options=options)
    assert other == pytest.approx(2 * one)  # half of the speed
    twice = {**options, "sequences": 128}
    more = seconds(sites=("input",), values=(0.5, 0.9), task_options=twice)
    more -= seconds(sites=("input",), values=(0.5,), task_options=twice)
    assert more == pytest.approx(2 * one)


def test_speeds_are_interpolated_between_shapes_and_constant_beyond_them():
    shapes = tuple(MeasuredShape(size, False, {"dense": speed, "input": speed / 2}, {"dense": speed})
                   for size, speed in ((1e4, 1e9), (1e6, 1e11)))  # fmt: skip
    card = dataclasses.replace(CARD, shapes=shapes)
    speeds = [card.prefill_speed(size, False, None) for size in (1e3, 1e4, 1e5, 1e6, 1e7)]
    assert speeds == pytest.approx([1e9, 1e9, 1e10, 1e11, 1e11])
    assert card.prefill_speed(1e4, False, "a_site_of_another_package") == pytest.approx(5e8)  # the slowest one


def test_a_card_is_found_by_a_part_of_its_name(measured):
    assert find_card("test80") is CARD
    with pytest.raises(SpecError, match=r"'H1000'.*not measured.*Test 80GB"):
        find_card("H1000")
    ray = ExecutorConfig("ray", number=4, gpus=2)
    resources = choose_resources("spread", ray, "test")
    assert (resources.memory, resources.cards_per_worker, resources.workers) == (160 * GIB, 2, 4)
    assert choose_resources("auto", ray, "test").memory == 80 * GIB
    assert choose_resources("cpu", ExecutorConfig()).card is None  # no CPU was measured
