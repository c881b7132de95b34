"""Describing a study: YAML in, and every problem at once out."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedial.errors import SpecError
from sparsedial.rules import MaxP, TopP
from sparsedial.study.spec import StudySpec
from sparsedial.tasks.spec import TaskSpec

NAME = st.text(min_size=1, max_size=8)
NAMES = st.lists(NAME, max_size=3).map(tuple)
OPTION_VALUES = st.none() | st.integers() | st.just({"a": "acc"})
OPTIONS = st.dictionaries(st.sampled_from(["limit", "seed", "metrics"]), OPTION_VALUES)
TASKS = NAME | st.builds(TaskSpec, NAME, OPTIONS)
SPECS = st.builds(
    StudySpec,
    models=NAMES,
    sites=st.none() | NAMES,
    rules=NAMES,
    tasks=st.lists(TASKS, max_size=3).map(tuple),
    task_options=OPTIONS,
    values=st.none() | st.lists(st.floats(0, 1), max_size=3).map(tuple),
    layers=st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
    tolerance=st.floats(0, 1),
    trust_remote_code=st.booleans(),
)


@given(SPECS)
def test_json_and_back(spec):
    assert StudySpec.from_json(spec.to_json()) == spec


def test_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "models: [one, org/two]\n"
        "sites: [input]\n"
        "rules: [top_p, top_k]\n"
        "tasks: [self_prediction, {name: piqa, limit: 9}]\n"
        "values: [1, 0.9]\n"
        "layers: [0, 2]\n"
        "task_options:\n  limit: 30\n  include_path: tasks\n  metrics: {piqa: acc_norm}\n"
    )
    spec = StudySpec.from_yaml(path)
    assert spec.models == ("one", "org/two")
    assert spec.rules == ("top_p", "top_k")
    assert spec.values == (1.0, 0.9)
    assert isinstance(spec.values[0], float)  # 1 and 1.0 are one trial
    assert spec.tasks == (TaskSpec("self_prediction"), TaskSpec("piqa", {"limit": 9}))
    assert spec.task_options == {"limit": 30, "include_path": "tasks", "metrics": {"piqa": "acc_norm"}}


def test_all_problems_of_a_file_are_listed_at_once(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "model: one\nsites: input\nvalues: [0.9, 1e-2, true]\ntolerance: narrow\nlayers: [1.5]\n"
        "task_options: [limit]\ntasks: [{limit: 3}, 7]\ntrust_remote_code: 1\nmask_token: true\n"
    )
    with pytest.raises(SpecError) as error:
        StudySpec.from_yaml(path)
    for line in (
        "unknown key 'model', perhaps 'models'; known keys: models, sites",
        "models is missing",
        "sites: expected a list, got text 'input'",
        "values[1]: expected a number, got text '1e-2'",
        "values[2]: expected a number, got True",
        "tolerance: expected a number, got text 'narrow'",
        "layers[0]: expected a whole number, got 1.5",
        "task_options: expected keys and values, got a list",
        "tasks[0]: expected a task name, or keys and values with a name, got keys and values",
        "tasks[1]: expected a task name, or keys and values with a name, got 7",
        "mask_token: expected a whole number, got True",
        "trust_remote_code: expected true or false, got 1",
    ):
        assert line in str(error.value), line
    assert "12 problems" in str(error.value)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("next_token", {"limits": 3}, ["'limits'", "'limit'"]),
        ("self_prediction", {"batch": "many"}, ["batch", "'many'"]),
        ("piqa", {"metrics": "acc"}, ["metrics", "'acc'"]),
    ],
)
def test_unknown_and_wrongly_typed_task_options_are_problems(task, options, words):
    (problem,) = StudySpec(models=("zoo:dense-0.4m",), tasks=(TaskSpec(task),), task_options=options).problems()
    for word in words:
        assert word in problem


def test_a_task_with_two_sets_of_options_is_a_problem():
    tasks = (TaskSpec("self_prediction", {"length": 4}), TaskSpec("self_prediction", {"length": 8}))
    problems = StudySpec(models=("zoo:dense-0.4m",), tasks=tasks).problems()
    assert any("listed twice" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "got nothing"),
        ("- a", "got a list"),
        ("a: [", "not YAML"),
        ("version: 2\nmodels: [m]", "version 2; this version of sparsedial reads version 4"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("models: &a [*a]", "not plain data"),
    ],
)
def test_files_that_are_not_studies(tmp_path, text, word):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=word):
        StudySpec.from_yaml(path)
    with pytest.raises(SpecError, match="No such file"):
        StudySpec.from_yaml(tmp_path / "nowhere.yaml")


def test_the_grid_has_each_rule_once():
    spec = StudySpec(models=("m",), rules=("top_p", "max_p"), values=(0.5, 0.9, 0.5))
    assert spec.grid == {"top_p": (TopP(0.9), TopP(0.5)), "max_p": (MaxP(0.9), MaxP(0.5))}
    assert dataclasses.replace(spec, values=None).grid == {}


def test_the_command_that_reproduces_a_study():
    spec = StudySpec(models=("m",), rules=("top_k",), values=(0.5,))
    assert spec.command() == ["sparsedial", "run", "m", "--rule", "top_k", "--p", "0.5"]
    from_file = ["sparsedial", "study", "study.json"]
    assert dataclasses.replace(spec, models=("m", "n")).command() == from_file
    assert dataclasses.replace(spec, tasks=(TaskSpec("piqa", {"limit": 9}),)).command() == from_file
    assert dataclasses.replace(spec, task_options={"an_option_of_a_plugin": 1}).command() == from_file


def test_a_task_that_is_named_twice_is_one_task():
    options = {"name": "piqa", "limit": 3}
    spec = StudySpec.from_json({"models": ["m"], "tasks": ["next_token", options, "next_token", options]})
    assert spec.tasks == (TaskSpec("next_token"), TaskSpec("piqa", {"limit": 3}))
