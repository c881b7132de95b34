"""The stated work of a task, compared with the tokens that a sparsifier counts while it runs."""

import pytest

import sparsedial as sd
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.tasks.lm_eval.generation_options import GenerationOptions
from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.spec import TaskSpec
from sparsedial.tasks.workload import EstimatedTask
from tests.support.lm_eval_tasks import load_task, write_tasks


@pytest.fixture(scope="module")
def diffusion():
    return load_language_model(resolve_source("zoo:diffusion-1.3m"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


def counted_tokens(task, lm):
    """Return the tokens of one layer in each phase of a sparse trial."""
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, site="input", rule=sd.TopP(0.99)) as sparsifier:
        task.score(lm, examples, sparsifier)
    stats = sparsifier.stats()
    return stats[stats["layer"] == 0].groupby("phase")["tokens"].sum().to_dict()


@pytest.mark.parametrize(
    ("name", "options"), [("self_prediction", {"length": 9, "sequences": 4}), ("next_token", {"length": 9, "limit": 3})]
)
def test_tasks_of_causal_models(trained, name, options):
    [task] = make_tasks([TaskSpec(name)], options)
    work = task.workload(trained)
    assert counted_tokens(task, trained) == {"prefill": work.prefill_tokens}
    assert work.examples == task.count_examples()


@pytest.mark.parametrize("name", ["self_prediction", "restoration", "denoising"])
def test_tasks_of_diffusion_models(diffusion, name):
    [task] = make_tasks([TaskSpec(name)], {"length": 6, "sequences": 2})
    assert sum(counted_tokens(task, diffusion).values()) == task.workload(diffusion).prefill_tokens


@pytest.mark.parametrize("name", ["tiny_choice", "tiny_last", "tiny_rolling", "tiny_write"])
def test_lm_eval_tasks_of_causal_models(trained, task_folder, name):
    task = load_task(task_folder, name)
    work = task.workload(trained)
    counted = counted_tokens(task, trained)
    assert counted["prefill"] == work.prefill_tokens
    assert counted.get("generation", 0) <= work.most_generated_tokens
    assert (work.most_generated_tokens > 0) == (name == "tiny_write")


def test_the_option_for_the_length_of_texts_changes_the_work(trained, task_folder):
    task = load_task(task_folder, "tiny_write", generation=GenerationOptions(max_gen_toks=3))
    assert task.workload(trained).most_generated_tokens == 3 * task.count_examples()


@pytest.mark.parametrize("name", ["tiny_choice", "tiny_write"])
def test_lm_eval_tasks_of_diffusion_models(diffusion, task_folder, name):
    from sparsedial.inference.diffusion_options import DiffusionOptions

    task = load_task(task_folder, name, diffusion=DiffusionOptions(mc_samples=3))
    assert sum(counted_tokens(task, diffusion).values()) == task.workload(diffusion).prefill_tokens


def test_the_work_of_many_documents_is_that_of_the_first_ones_in_proportion(trained, task_folder, monkeypatch):
    task = load_task(task_folder, "tiny_last")
    monkeypatch.setattr("sparsedial.tasks.lm_eval.task.SAMPLED_DOCUMENTS", 2)
    first = load_task(task_folder, "tiny_last", limit=2).workload(trained)
    assert task.workload(trained).prefill_tokens == first.prefill_tokens / 2 * 5


def test_all_built_in_tasks_state_their_work(task_folder):
    names = ["self_prediction", "restoration", "denoising", "next_token", "masked_token"]
    tasks = [*make_tasks([TaskSpec(name) for name in names]), load_task(task_folder, "tiny_choice")]
    assert all(isinstance(task, EstimatedTask) for task in tasks)
