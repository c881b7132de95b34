"""Blocks of lm-eval's documents: prompts, answers, IDs and predictions are those of the whole task."""

import json

import numpy as np
import pytest

from sparsedial.tasks.example_blocks import task_blocks, without_examples
from sparsedial.tasks.lm_eval.aggregations import Aggregation
from sparsedial.tasks.lm_eval.judging import GREEDY, NOT_GREEDY, document_id
from sparsedial.tasks.lm_eval.metrics import IFEVAL_STRICT, Metric
from sparsedial.tasks.lm_eval.requests import PreparedRequests
from tests.support.lm_eval_tasks import DOCUMENTS, TASKS, load_task


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("sparsedial.tasks.example_blocks.FIRST_BLOCK", 2)


def prompts(task, examples):
    """Return the tokens of each prompt by document and index of the request."""
    prepared = PreparedRequests.from_json(examples)
    found = {}
    for request in prepared.requests:
        windows = getattr(request, "windows", ())
        contexts = [prepared.contexts[window.context] for window in windows]
        if not windows:
            contexts = [prepared.contexts[request.context]]
        found[request.doc, request.idx] = contexts
    return found


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("name", TASKS)
def test_blocks_have_the_prompts_and_scores_of_the_whole(folder, lm, name, shots):
    task = load_task(folder, name, **({} if name == "tiny_rolling" else {"num_fewshot": shots}))
    whole_examples = json.loads(json.dumps(task.prepare(lm)))
    whole = task.score(lm, whole_examples)
    blocks = task_blocks(task)
    assert [block.identity()["examples"] for block in blocks] == [[0, 2], [2, 4], [4, 5]]
    settings = [json.dumps(without_examples(block.identity())) for block in (task, *blocks)]
    assert len(set(settings)) == 1
    found = {}
    scores = []
    predictions = []
    ids = []
    for block in blocks:
        examples = json.loads(json.dumps(block.prepare(lm)))
        found.update(prompts(block, examples))
        result = block.score(lm, examples)
        scores += result.values.tolist()
        predictions += result.predictions
        ids += result.ids
    assert found == prompts(task, whole_examples)
    np.testing.assert_allclose(scores, whole.values, atol=1e-6)
    assert predictions == list(whole.predictions)
    assert ids == list(whole.ids) == [str(index) for index in range(len(DOCUMENTS))]


def test_predictions_are_what_the_model_answered(folder, lm):
    for name, task in ((name, load_task(folder, name)) for name in TASKS):
        result = task.score(lm, json.loads(json.dumps(task.prepare(lm))))
        for document, prediction, score in zip(DOCUMENTS, result.predictions, result.values, strict=True):
            correct = document["options"][document["gold"]]
            if name == "tiny_choice":
                assert prediction in document["options"]
                assert (prediction == correct) == bool(score)
            elif name == "tiny_last":
                assert prediction in (GREEDY, NOT_GREEDY)
            elif name == "tiny_write":
                assert (prediction == correct) == bool(score)
            else:
                assert prediction == ""


def test_the_limit_is_no_part_of_the_settings(folder):
    identities = [load_task(folder, "tiny_choice", limit=limit).identity() for limit in (2, 4)]
    assert without_examples(identities[0]) == without_examples(identities[1])
    assert [identity["examples"] for identity in identities] == [[0, 2], [0, 4]]


def test_metrics_whose_numbers_depend_on_other_examples_are_not_divided(folder):
    assert not Metric(IFEVAL_STRICT, "none").averages_examples
    assert not Metric("inst_level_strict_acc", "none", Aggregation.ITEM_MEAN).averages_examples
    task = load_task(folder, "tiny_choice")
    assert task.is_divisible and len(task_blocks(task)) == 3
    object.__setattr__(task, "metric", Metric(IFEVAL_STRICT, "none"))
    assert task_blocks(task) == [task]


def test_the_id_of_a_document_is_its_own_or_its_index():
    assert document_id(3, {"question_id": 17}) == "17"
    assert document_id(3, {"id": ["a"]}) == "3"
    assert document_id(3, "text") == "3"
