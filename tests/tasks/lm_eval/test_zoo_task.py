"""The zoo's own task is found by name, wherever the zoo is installed, and scores the text after the thinking."""

import shutil
import sys

import pytest

from sparsedial.models import zoo_package
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.tasks.lm_eval import task_index
from sparsedial.tasks.lm_eval.loader import TaskSelection, load_lm_eval_tasks
from sparsedial.tasks.lm_eval.options import LmEvalSettings
from tests.support.lm_eval_tasks import load_tasks

NAME = "thinking_arithmetic"


def load_task(**settings):
    [task] = load_lm_eval_tasks([TaskSelection([NAME], LmEvalSettings(**settings))])
    return task


def test_the_task_is_found_without_and_beside_the_users_tasks(folder):
    assert load_task().count_available() == 500
    assert [task.name for task in load_tasks([NAME, "tiny_write"], folder)] == [NAME, "tiny_write"]


def test_the_identity_does_not_depend_on_where_the_zoo_is_installed(tmp_path):
    installed = tmp_path / "site-packages" / "sparsedial_zoo" / "tasks"
    shutil.copytree(zoo_package.lm_eval_tasks_folder(), installed)
    here = load_task(limit=4)
    there = load_task(limit=4, include_path=str(installed))
    assert there.lm_eval_task.config.custom_dataset is not here.lm_eval_task.config.custom_dataset
    assert there.identity() == here.identity()


def test_without_the_zoo_its_task_is_unknown(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "sparsedial_zoo", None)
    task_index._local_task_manager.cache_clear()
    manager = task_index.find_task_manager(("tiny_write",), folder)
    assert NAME not in manager.task_index
    task_index._local_task_manager.cache_clear()


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>b=07+5=12,</think>{answer}", 1.0),
        ("<think>b=07+5=12,</think>{answer}1", 0.0),
        ("<think>{answer}", 0.0),  # the thinking was not closed
        ("{answer}", 0.0),
    ],
)
def test_the_score_is_that_of_the_text_after_the_thinking(text, score):
    task = load_task(limit=2, apply_chat_template=True)
    lm = load_language_model(resolve_source("zoo:thinking-0.8m"), device="cpu", dtype="float32")
    examples = task.prepare(lm)
    answers = [document["answer"] for document in task.lm_eval_task.dataset["test"]][:2]
    scores = task.judge(examples, [[text.format(answer=answer)] for answer in answers])
    assert scores.values.tolist() == [score, score]


def test_the_model_answers_through_the_chat_template():
    task = load_task(limit=8, apply_chat_template=True)
    lm = load_language_model(resolve_source("zoo:thinking-0.8m"), device="cpu", dtype="float32")
    scores = task.score(lm, task.prepare(lm))
    assert scores.mean >= 0.75
    assert scores.details["limit_hit"] == 0
    assert 20 < scores.details["generated_tokens"] < 110


def test_tasks_of_lm_eval_are_found_although_the_zoo_has_tasks():
    assert {"piqa", "gsm8k"} <= set(task_index.find_task_manager(("piqa", "gsm8k"), None).all_tasks)
    assert set(task_index.find_task_manager((NAME,), None).all_tasks) == {NAME}
