"""Loading tasks by name: groups, metrics, and everything that is wrong with them, without a model."""

import shutil

import pytest
import yaml

from sparsedial.errors import SparsedialError, SpecError, TaskError
from sparsedial.tasks.base import TaskGroup
from sparsedial.tasks.lm_eval import loader
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from sparsedial.tasks.lm_eval.loader import TaskSelection, load_lm_eval_tasks
from sparsedial.tasks.lm_eval.options import LmEvalSettings
from tests.support.lm_eval_tasks import CHOICE, DOCUMENTS, load_task, load_tasks, write_task, write_yaml
from tests.support.tasks import make_task


def test_everything_that_is_wrong_is_reported_at_once_without_a_model(folder, monkeypatch):
    with silence_lm_eval():
        from lm_eval.tasks import TaskManager  # indexing lm-eval's own 14 000 tasks takes seconds

        local = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(loader, "find_task_manager", lambda *_: local)
    with pytest.raises(TaskError) as error:
        load_tasks(["tiny_choise", "tiny_missing", "tiny_write"], folder, limit=50)
    message = str(error.value)
    assert "unknown task 'tiny_choise': did you mean 'tiny_choice'?" in message
    assert "task 'tiny_missing': its dataset could not be loaded" in message and "--include-path" in message
    assert "'tiny_write' has 5 examples, fewer than the limit of 50" in message


@pytest.mark.parametrize(
    ("names", "settings", "error", "message"),
    [
        ([], {}, TaskError, "no task is named"),
        (["tiny_choice"], {"limit": 0}, SpecError, "limit=0"),
        (["tiny_choice"], {"num_fewshot": -1}, SpecError, "num_fewshot=-1"),
        (
            ["tiny_choice"],
            {"metrics": {"tiny_choice": "acurracy"}},
            TaskError,
            "unknown metric 'acurracy': expected one of acc, acc_norm",
        ),
        (["tiny_f1"], {"metrics": {"tiny_f1": "f1"}}, TaskError, "has no number per example"),
        (
            ["tiny_choice"],
            {"metrics": {"tiny_choice": "acc,strict"}},
            TaskError,
            "unknown filter 'strict': expected one of none",
        ),
        (["tiny_choice"], {"metrics": {"piqa": "acc"}}, TaskError, "'piqa', which is not among the tasks"),
    ],
)
def test_wrong_settings_are_refused(folder, names, settings, error, message):
    with pytest.raises(error, match=message):
        load_tasks(names, folder, **settings)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(SparsedialError, match="no such folder"):
        load_tasks(["tiny_choice"], tmp_path / "nowhere")


def test_groups_and_patterns_expand(folder):
    tasks = load_tasks(["tiny_all", "tiny_last"], folder)
    assert [(task.name, task.group) for task in tasks] == [
        ("tiny_choice", TaskGroup("tiny_all")),
        ("tiny_write", TaskGroup("tiny_all")),
        ("tiny_last", None),
    ]
    assert [task.metric.label for task in tasks] == ["acc", "exact_match,stripped", "acc"]


@pytest.mark.parametrize("by_size", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_group_that_lm_eval_averages_is_averaged(folder, tmp_path, by_size):
    for name in ("tiny_choice", "tiny_last"):
        shutil.copy(folder / f"{name}.yaml", tmp_path)
    aggregates = [{"metric": "acc", "weight_by_size": by_size}]
    inner = {"group": "inner", "task": ["tiny_last"]}
    outer = {"group": "outer", "task": ["tiny_choice", inner], "aggregate_metric_list": aggregates}
    write_yaml(tmp_path / "outer.yaml", outer)
    tasks = load_tasks(["outer"], tmp_path)
    assert [task.group for task in tasks] == [TaskGroup("outer", by_size, ("tiny_choice", "tiny_last"))] * 2
    tasks = load_tasks(["outer"], tmp_path, metrics={"tiny_choice": "acc_norm"})
    assert [task.group.by_size for task in tasks] == [None, by_size]  # it does not average the other metric
    write_yaml(tmp_path / "list.yaml", {"group": "list", "task": ["outer"]})
    assert [task.group.name for task in load_tasks(["list"], tmp_path)] == ["outer"] * 2


def write_groups(folder, tasks, **groups):
    """Write tasks, and groups that average the accuracy of their members."""
    for name in ("tiny_choice", "tiny_last"):
        shutil.copy(tasks / f"{name}.yaml", folder)
    for name, members in groups.items():
        group = {"group": name, "task": members, "aggregate_metric_list": [{"metric": "acc"}]}
        write_yaml(folder / f"{name}.yaml", group)


SHOTS = [{"task": "tiny_choice", "num_fewshot": shots} for shots in range(3)]


@pytest.mark.parametrize("names", [["first", "second"], ["both"]])
def test_a_task_in_two_groups_with_other_shots_is_run_twice(folder, tmp_path, names):
    write_groups(tmp_path, folder, first=[SHOTS[0]], second=[SHOTS[1], "tiny_last"])
    write_yaml(tmp_path / "both.yaml", {"group": "both", "task": ["first", "second"]})
    tasks = load_tasks(names, tmp_path)
    assert [(task.name, task.num_fewshot) for task in tasks] == [
        ("tiny_choice", 0),
        ("second::tiny_choice", 1),
        ("tiny_last", 0),
    ]
    members = ("second::tiny_choice", "tiny_last")
    assert [task.group.members for task in tasks] == [("tiny_choice",), members, members]
    assert len({task.lm_eval_task.config.num_fewshot for task in tasks[:2]}) == 2


def test_a_task_in_two_averages_is_a_member_of_both(folder, tmp_path):
    write_groups(tmp_path, folder, first=["tiny_choice"], second=["tiny_choice", "tiny_last"])
    tasks = load_tasks(["tiny_choice", "first", "second"], tmp_path)
    assert [(task.name, task.group.name) for task in tasks] == [
        ("tiny_choice", "first"),
        ("second::tiny_choice", "second"),
        ("tiny_last", "second"),
    ]
    # One average needs only one of them.
    [task] = load_tasks(["tiny_choice", "first"], tmp_path)
    assert task.group == TaskGroup("first", by_size=True, members=("tiny_choice",))


def test_a_metric_can_be_chosen_for_the_task_of_one_group(folder, tmp_path):
    write_groups(tmp_path, folder, first=[SHOTS[0]], second=[SHOTS[1]])
    tasks = load_tasks(["first", "second"], tmp_path, metrics={"second": "acc_norm"})
    assert [task.metric.name for task in tasks] == ["acc", "acc_norm"]


@pytest.mark.parametrize(
    ("groups", "names", "message"),
    [
        ({"first": SHOTS[:2]}, ["first"], "group 'first' names 'tiny_choice' twice"),
        ({"inner": SHOTS[:2], "outer": ["inner"]}, ["outer"], "group 'inner' names 'tiny_choice' twice"),
        ({"first": [SHOTS[1]]}, ["first", "tiny_choice"], "second time by itself: name it before the groups"),
    ],
)
def test_a_task_that_would_vanish_is_an_error(folder, tmp_path, groups, names, message):
    write_groups(tmp_path, folder, **groups)
    with pytest.raises(TaskError, match=message):
        load_tasks(names, tmp_path)


@pytest.mark.slow  # indexes all of lm-eval's tasks
def test_a_task_that_is_added_later_is_found(tmp_path):
    for name in ("first", "second", "third"):  # lm-eval's own tasks are indexed as well once a name is unknown
        with pytest.raises(TaskError, match=f"unknown task '{name}'"):
            load_tasks([name], tmp_path)
        write_task(tmp_path, name, CHOICE, DOCUMENTS)
        assert load_task(tmp_path, name).name == name


def test_a_local_group_may_name_lm_evals_tasks(folder, tmp_path):
    shutil.copy(folder / "tiny_choice.yaml", tmp_path)
    inner = {"group": "inner", "task": ["arc_easy"]}
    write_yaml(tmp_path / "mine.yaml", {"group": "mine", "task": ["tiny_choice", inner]})
    with pytest.raises(TaskError, match="'mine': its dataset could not be loaded"):  # there is no hub here
        load_tasks(["mine"], tmp_path)


def test_a_broken_template_is_not_reported_as_missing_data(folder, tmp_path):
    config = yaml.safe_load((folder / "tiny_choice.yaml").read_text())
    write_yaml(tmp_path / "bad.yaml", {**config, "task": "bad", "doc_to_text": "{{ question"})
    with pytest.raises(TaskError, match="'bad': lm-eval cannot create it"):
        load_tasks(["bad"], tmp_path)


def test_few_shot_examples_are_drawn_with_lm_evals_seed_by_default(folder):
    options = {"include_path": str(folder), "num_fewshot": 2}
    usual = make_task("tiny_choice", **options)
    other = make_task("tiny_choice", **options, seed=7)
    assert (usual.settings.seed, other.settings.seed) == (1234, 7)  # the first is the default of its --seed


def test_selections_may_differ_in_their_settings(folder):
    few = LmEvalSettings(include_path=folder, limit=2)
    many = LmEvalSettings(include_path=folder, limit=4)
    tasks = load_lm_eval_tasks([TaskSelection(["tiny_choice"], few), TaskSelection(["tiny_last"], many)])
    assert [(task.name, task.settings.limit) for task in tasks] == [("tiny_choice", 2), ("tiny_last", 4)]
    with pytest.raises(TaskError, match="'tiny_choice' is named twice with different options"):
        load_lm_eval_tasks([TaskSelection(["tiny_choice"], few), TaskSelection(["tiny_all"], many)])


def test_a_task_with_the_name_of_the_average_is_refused(tmp_path):
    write_task(tmp_path, "average", CHOICE, DOCUMENTS)
    with pytest.raises(SpecError, match="name 'average': reports use this name for the average over tasks"):
        make_task("average", include_path=str(tmp_path))
