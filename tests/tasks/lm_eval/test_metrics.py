"""One number per example, and the number of lm-eval as their mean."""

import math

import pytest

from sparsedial.errors import TaskError
from sparsedial.tasks.lm_eval.aggregations import Aggregation
from sparsedial.tasks.lm_eval.metrics import IFEVAL_STRICT, Metric, per_example_values
from tests.support.lm_eval_tasks import load_task, write_task

DOCUMENTS = [{"question": question, "answer": " ran"} for question in ("Tom", "A dog", "The cat", "She", "He")]
FUNCTIONS = """
import math

def results(doc, answers):
    [(loglikelihood, is_greedy)] = answers
    length = float(len(doc["question"]))
    return {"acc": length > 3, "f1": length / 8, "loss": -loglikelihood, "infinite": math.inf, "nan": math.nan}

def harsh(values):
    return min(values)

def broken(values):
    raise ZeroDivisionError

def own_mean(values):
    return math.fsum(values) / len(values)
"""


def write_metrics(folder, *metrics):
    """Write a task with these entries of ``metric_list``. An aggregation that starts with ! is a function."""
    lines = []
    for metric in metrics:
        entries = [f"{name}: {value}" for name, value in metric.items()]
        lines.append("  - {" + ", ".join(entries).replace(": !", ": !function utils.") + "}")
    task = {"output_type": "loglikelihood", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}"}
    write_task(folder, "scored", task, DOCUMENTS)
    (folder / "utils.py").write_text(FUNCTIONS)
    yaml = folder / "scored.yaml"
    yaml.write_text(
        yaml.read_text() + "process_results: !function utils.results\nmetric_list:\n" + "\n".join(lines) + "\n"
    )


def metric(name, aggregation="mean", higher_is_better="true"):
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


def scores(folder, lm, **settings):
    task = load_task(folder, "scored", **settings)
    return task.score(lm, task.prepare(lm))


def test_instruction_level_accuracy_is_a_mean_over_instructions():
    results = [
        {"prompt_level_strict_acc": False, "inst_level_strict_acc": [True, False, True]},
        {"prompt_level_strict_acc": True, "inst_level_strict_acc": [True]},
    ]
    values = per_example_values(Metric(IFEVAL_STRICT, "none"), results, "ifeval")
    assert values.mean() == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_a_result_that_is_not_a_number_is_an_error():
    with pytest.raises(TaskError, match="not a number"):
        per_example_values(Metric("acc", "none"), [{"acc": "yes"}], "odd")


def test_an_accuracy_that_is_not_a_mean_is_not_the_score(tmp_path, trained):
    write_metrics(tmp_path, metric("acc", "!harsh"), metric("f1"))
    assert scores(tmp_path, trained).metric == "f1"
    with pytest.raises(TaskError, match=r"'acc' has no number per example, because 'harsh' .* Use one of f1"):
        load_task(tmp_path, "scored", metrics={"scored": "acc"})


@pytest.mark.parametrize("aggregation", ["mean", "!own_mean", "nanmean"])
def test_a_number_per_example_is_accepted_whatever_its_name(tmp_path, trained, aggregation):
    write_metrics(tmp_path, metric("f1", aggregation))
    result = scores(tmp_path, trained)
    expected = [len(document["question"]) / 8 for document in DOCUMENTS]
    assert result.values.tolist() == expected
    assert result.mean == pytest.approx(result.details["f1"]) == pytest.approx(sum(expected) / len(expected))


def test_a_score_that_is_not_the_number_of_lm_eval_is_an_error(tmp_path, trained):
    write_metrics(tmp_path, metric("f1"))
    task = load_task(tmp_path, "scored")
    examples = task.prepare(trained)
    task.lm_eval_task.aggregation()["f1"] = max  # as if it had not been recognized
    with pytest.raises(
        TaskError, match=r"mean of 'f1' over examples is 0.*lm-eval's aggregation gives 0\.875.*--metric"
    ):
        task.score(trained, examples)


def test_only_the_chosen_metric_has_to_be_finite(tmp_path, trained):
    write_metrics(tmp_path, metric("acc"), metric("infinite"), metric("nan"), metric("f1", "!broken"))
    result = scores(tmp_path, trained)
    assert result.metric == "acc"
    assert all(map(math.isfinite, result.details.values()))
    with pytest.raises(TaskError, match=r"metric 'infinite' of example 0 is inf: expected a finite number\. Choose"):
        scores(tmp_path, trained, metrics={"scored": "infinite"})


def test_a_lower_loss_is_better(tmp_path, trained):
    write_metrics(tmp_path, metric("loss", higher_is_better="false"))
    result = scores(tmp_path, trained)
    assert result.metric == "loss" and not result.higher_is_better
    assert (result.values > 0).all()


@pytest.mark.parametrize(("stated", "expected"), [("lower", False), ("higher", True)])
def test_an_unknown_direction_has_to_be_stated(tmp_path, trained, stated, expected):
    write_metrics(tmp_path, {"metric": "loss", "aggregation": "mean"})
    with pytest.raises(TaskError, match=r"does not say whether a higher value of 'loss' is better.*scored=loss:lower"):
        load_task(tmp_path, "scored")
    task = load_task(tmp_path, "scored", metrics={"scored": f"loss:{stated}"})
    assert task.score(trained, task.prepare(trained)).higher_is_better is expected
    assert task.identity()["higher_is_better"] is expected


def test_a_metric_of_unknown_direction_is_never_the_default(tmp_path):
    write_metrics(tmp_path, {"metric": "loss", "aggregation": "mean"}, metric("f1"))
    assert load_task(tmp_path, "scored").metric == Metric("f1", "none", Aggregation.MEAN, higher_is_better=True)
