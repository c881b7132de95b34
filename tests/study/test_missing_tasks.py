"""A task whose data cannot be loaded does not stop the others, and is named."""

import dataclasses

import pytest
import yaml

from sparsedial.analysis.results import compute_results
from sparsedial.errors import SpecError, TaskDataError
from sparsedial.study.integrity import find_problems
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.runner import run_study
from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.spec import TaskSpec

LATE = "late_questions"


class Log(NullListener):
    """Listener that keeps the messages."""

    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)


@pytest.fixture
def data(tmp_path):
    """Path of the data of the task, which does not exist yet, in the folder of its YAML file."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "questions.jsonl"
    task = {
        "task": LATE, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "output_type": "loglikelihood", "doc_to_text": "{{text}}", "doc_to_target": "{{target}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }  # fmt: skip
    (folder / "late.yaml").write_text(yaml.safe_dump(task))
    return data


def with_late_task(spec, data, *names):
    options = {"include_path": str(data.parent)}
    tasks = (*spec.tasks, *(TaskSpec(name, options) for name in (LATE, *names)))
    return dataclasses.replace(spec, tasks=tasks)


def test_the_other_tasks_are_run_and_the_missing_one_is_named(spec, data, tmp_path, numbers):
    alone = run_study(spec, tmp_path / "alone")
    log = Log()
    store = run_study(with_late_task(spec, data), tmp_path / "out", listener=log)
    assert numbers(store) == numbers(alone)
    assert log.lines[0].startswith(f"task {LATE!r}: its dataset could not be loaded")
    assert log.lines[0].endswith("The other tasks are run.")
    [problem] = find_problems(store)
    assert (problem.kind, problem.key) == ("missing", LATE)
    assert any(LATE in line for line in compute_results(store).problems)


def test_the_same_command_runs_the_task_once_its_data_are_there(spec, data, tmp_path):
    tokenized = dataclasses.replace(spec, models=("zoo:dense-0.4m",), sites=("input",))
    both = with_late_task(tokenized, data)
    assert LATE not in {record.task.name for record in run_study(both, tmp_path / "out").trials()}
    data.write_text('{"text": "a b", "target": " c"}\n' * 4)
    store = run_study(both, tmp_path / "out")
    assert LATE in {record.task.name for record in store.trials()}
    assert LATE not in {problem.key for problem in find_problems(store)}


def test_nothing_is_run_if_no_task_is_left_or_something_else_is_wrong(spec, data, tmp_path):
    late = with_late_task(spec, data)
    with pytest.raises(TaskDataError, match=LATE):
        make_tasks(late.tasks[-1:])
    with pytest.raises(SpecError, match=LATE):
        run_study(dataclasses.replace(late, tasks=late.tasks[-1:]), tmp_path / "out")
    with pytest.raises(SpecError, match=rf"(?s){LATE}.*no_such_task"):
        run_study(with_late_task(spec, data, "no_such_task"), tmp_path / "out")
