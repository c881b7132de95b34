"""Every example study can be planned, and its first line says what a clone lacks. The example script runs."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest

from sparsedial.models.zoo_package import PREFIX
from sparsedial.study.dry_run import preview_study
from sparsedial.study.planner import Planner
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.task_plan import TaskPlan
from sparsedial.tasks.lm_eval.loader import TaskSelection
from sparsedial.tasks.lm_eval.task_index import find_task_manager
from sparsedial.tasks.registry import task_registry

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
PAPER_EXAMPLES = sorted((ROOT / "examples" / "paper").glob("*.yaml"))
EXAMPLES = [*sorted((ROOT / "examples").glob("*.yaml")), *PAPER_EXAMPLES]


def is_in_clone(spec):
    """Return True if all models of a study are part of the repository."""
    return all(model.startswith(PREFIX) for model in spec.models)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_can_be_planned_and_says_first_what_it_needs(tmp_path, monkeypatch, path):
    monkeypatch.chdir(ROOT)
    spec = StudySpec.from_yaml(path)
    first_line = path.read_text().splitlines()[0]
    assert first_line.startswith("# ")
    assert first_line.startswith("# Needs ") != is_in_clone(spec), first_line
    store = Store(tmp_path)
    if is_in_clone(spec):
        jobs = preview_study(spec, store).jobs
    else:
        tasks = {task.name: TaskPlan(({"task": task.name},), 1) for task in spec.tasks}
        jobs = Planner(spec, tasks, store, {}).jobs(assume_dense=True)
    assert {job.model for job in jobs} == set(spec.models)
    assert {job.task for job in jobs} == {task.name for task in spec.tasks}
    assert "include_path" not in spec.task_options  # a clone has no folder of tasks
    for model in spec.models:
        assert not Path(model).is_absolute() and ".." not in Path(model).parts


def test_the_tasks_of_the_paper_are_known_to_lm_eval():
    names = []
    for path in PAPER_EXAMPLES:
        names += [task.name for task in StudySpec.from_yaml(path).tasks if task.name not in task_registry()]
    known = set(find_task_manager(("piqa",), None).all_tasks)
    assert set(TaskSelection(tuple(dict.fromkeys(names))).lm_eval_names()) <= known


PAPER_SITES = ("input", "up", "gate", "intermediate", "all_inputs")
PAPER_SIZES = {
    "size": {"gemma-3": [1, 4, 12, 27], "Llama-3": [1, 3, 8, 70], "Qwen2.5": [0.5, 1.5, 3, 7, 14, 32, 72]},
    "thinking": {"Qwen3": [4, 4]},
    "experts": {"Qwen3": [30], "OLMoE": [1]},
    "diffusion": {"LLaDA": [8]},
}
PAPER_SIZES["base"] = PAPER_SIZES["instruct"] = PAPER_SIZES["size"]


@pytest.mark.parametrize("path", PAPER_EXAMPLES, ids=lambda path: path.stem)
def test_a_study_of_the_paper_has_its_models_sites_and_dtype(path):
    spec = StudySpec.from_yaml(path)
    sizes = {}
    for family in PAPER_SIZES[path.stem]:
        members = [model for model in spec.models if model.partition("/")[2].startswith(family)]
        sizes[family] = [float(re.search(r"-(\d+(?:\.\d+)?)b", model, re.IGNORECASE)[1]) for model in members]
    assert sizes == PAPER_SIZES[path.stem]
    assert len(spec.models) == sum(map(len, sizes.values()))
    assert (spec.sites, spec.rules, spec.dtype, spec.retain) == (PAPER_SITES, ("top_p",), "bfloat16", 0.99)
    assert spec.values is None  # searched; the grid is an option
    assert "Known differences from the paper" in path.read_text()


def test_base_and_instruction_tuned_models_differ_in_the_chat_template_only():
    base, instruct = (
        StudySpec.from_yaml(ROOT / "examples" / "paper" / f"{name}.yaml") for name in ("base", "instruct")
    )
    assert (base.task_options, instruct.task_options) == ({}, {"apply_chat_template": True})
    assert dataclasses.replace(instruct, models=base.models, task_options={}) == base


def test_the_training_example_prints_the_critical_sparsity_before_and_after(monkeypatch, capsys):
    arguments = ["finetune.py", "--model", "zoo:dense-0.4m", "--steps", "1", "--documents", "4"]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(ROOT / "examples" / "finetune.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if "critical sparsity at all_inputs" in line]
    assert [line.split(":")[0] for line in lines] == [
        "before training",
        "after dense training",
        "after training with TopP(p=0.6)",
    ]
    assert all("95% interval" in line for line in lines)
