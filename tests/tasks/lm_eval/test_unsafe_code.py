"""Tasks that run the code that a model writes, in the form of humaneval and mbpp."""

import pytest

from sparsedial.errors import TaskError
from tests.support.lm_eval_tasks import load_task, write_task

FUNCTIONS = """
def pass_at_k(references, predictions, k=None):
    [[program]] = predictions
    return {f"pass@{k[0]}": float(program.startswith("assert 1 + 1 == 2"))}


def build_programs(resps, docs):
    return [[doc["prompt"] + "#" + text for text in texts] for texts, doc in zip(resps, docs)]
"""
METRICS = """
metric_list:
  - metric: !function utils.pass_at_k
    aggregation: mean
    higher_is_better: true
    k: [1]
filter_list:
  - name: create_test
    filter:
      - function: custom
        filter_fn: !function utils.build_programs
"""
PROGRAMS = [{"prompt": "assert 1 + 1 == 2"}, {"prompt": "assert 1 + 1 == 3"}]


@pytest.fixture
def folder(tmp_path):
    task = {
        "output_type": "generate_until",
        "unsafe_code": True,
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    }
    write_task(tmp_path, "programs", task, PROGRAMS)
    (tmp_path / "utils.py").write_text(FUNCTIONS)
    yaml = tmp_path / "programs.yaml"
    yaml.write_text(yaml.read_text() + METRICS)
    return tmp_path


def test_a_task_that_runs_code_needs_a_confirmation(folder):
    with pytest.raises(TaskError, match=r"runs code that the model has written.*confirm_run_unsafe_code: true"):
        load_task(folder, "programs")


def test_the_score_is_what_the_function_of_the_metric_returns_under_another_name(folder, trained):
    task = load_task(folder, "programs", confirm_run_unsafe_code=True)
    scores = task.score(trained, task.prepare(trained))
    assert scores.metric == "pass_at_k,create_test"
    assert scores.values.tolist() == [1.0, 0.0]
    assert scores.details["pass@1,create_test"] == 0.5
    assert [text.partition("#")[0] for text in scores.predictions] == [program["prompt"] for program in PROGRAMS]


def test_the_confirmation_is_not_part_of_the_identity(folder, tmp_path):
    task = load_task(folder, "programs", confirm_run_unsafe_code=True)
    assert not [name for name in task.identity() if "unsafe" in name]
