"""The rehearsal differs from the paper's studies in models, tasks and limits only, and covers all of them."""

import dataclasses

import pytest

from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.models.zoo_package import PREFIX
from sparsedial.study.spec import StudySpec
from sparsedial.tasks.lm_eval.loader import TASK_SETS
from tools.paper_rehearsal.substitution import (
    DENOISING_LIMITS,
    GENERATION_LIMITS,
    LIMITS,
    MODELS,
    TASK_FOLDER,
    TASKS,
    paper_studies,
    substitute,
)
from tools.paper_rehearsal.tiny_models import build_models

STUDIES = paper_studies()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_differs_in_models_tasks_and_limits_only(path, tmp_path):
    real = StudySpec.from_yaml(path)
    small = substitute(real, tmp_path)
    assert dataclasses.replace(small, models=real.models, tasks=real.tasks, task_options=real.task_options) == real
    changed = dict(small.task_options.items() - real.task_options.items())
    limited = {name: limit for name, limit in GENERATION_LIMITS.items() if name in real.task_options}
    assert changed == {"include_path": str(TASK_FOLDER), **LIMITS, **limited}
    assert {**small.task_options, **real.task_options} == {**changed, **real.task_options}
    options = {}
    for task in real.tasks:
        for name in TASK_SETS.get(task.name, [task.name]):
            options[TASKS[name]] = task.options
    assert {task.name for task in small.tasks} == set(options)
    for task in small.tasks:
        expected = options[task.name] | (DENOISING_LIMITS if task.name == "denoising" else {})
        assert task.options == expected


def test_the_tables_name_each_model_and_task_of_the_paper_once_and_no_others():
    specs = [StudySpec.from_yaml(path) for path in STUDIES]
    tasks = [task.name for spec in specs for task in spec.tasks]
    members = [member for name in tasks for member in TASK_SETS.get(name, [name])]
    assert {model for spec in specs for model in spec.models} == set(MODELS)
    assert set(members) == set(TASKS)


def test_the_tasks_of_a_rehearsal_can_be_loaded(tmp_path):
    for path in STUDIES:
        spec = substitute(StudySpec.from_yaml(path), tmp_path)
        assert all(task.count_examples() == 8 for task in spec.built_tasks)


@pytest.mark.parametrize("name", sorted({name for name in MODELS.values() if not name.startswith(PREFIX)}))
def test_a_model_of_the_rehearsal_can_be_loaded(name, tmp_path):
    build_models([name], tmp_path)
    source = resolve_source(str(tmp_path / name), trust_remote_code=name == "llada")
    lm = load_language_model(source, device="cpu", dtype="float32")
    assert lm.kind == ("masked-diffusion" if name == "llada" else "causal")
    assert bool(lm.tokenizer.chat_template) == ("-" in name and name.rpartition("-")[2] in ("chat", "thinking"))


def test_the_code_of_the_llada_shaped_model_needs_permission(tmp_path):
    build_models(["llada"], tmp_path)
    with pytest.raises(Exception, match="trust_remote_code"):
        load_language_model(resolve_source(str(tmp_path / "llada")), device="cpu", dtype="float32")
