"""Questions are decoded from the prepared requests of a task."""

import pytest

from sparsedial.analysis.example_texts import ExampleTexts
from sparsedial.study.records import ModelLabel
from sparsedial.tasks.lm_eval.requests import (
    ContinuationToScore,
    GenerationRequest,
    LoglikelihoodRequest,
    PreparedRequests,
)

MODEL = ModelLabel("zoo:dense-0.4m", "zoo", 1, 1, "cpu")
ROLLING = "loglikelihood_rolling"


class OneRecord:
    """A trial and the store that holds its examples."""

    def __init__(self, examples):
        self.examples = examples
        self.identity = self
        self.examples_key = "key"
        self.model = MODEL

    def prepared(self, key):
        return self.examples


def test_every_kind_of_request_has_a_question(trained):
    encode = trained.tokenizer.encode
    contexts = ([*encode("Question: one\nAnswer:")], [*encode("Question: two\nAnswer:")], encode("x")[:1])
    requests = (
        LoglikelihoodRequest(0, 0, 1, "loglikelihood", (ContinuationToScore(0, [5]),)),
        LoglikelihoodRequest(0, 1, 1, "loglikelihood", (ContinuationToScore(1, [5]),)),
        GenerationRequest(1, 0, 1, 1, ("\n",), 8, {}),
        LoglikelihoodRequest(2, 0, 1, ROLLING, (ContinuationToScore(2, encode("a whole text")),)),
        LoglikelihoodRequest(3, 0, 1, ROLLING, ()),
    )
    record = OneRecord(PreparedRequests(64, contexts, requests).to_json())
    questions = ExampleTexts().read_questions(record, record)
    assert questions[0].startswith("Question: one") and questions[1].startswith("Question: two")
    assert "whole text" in questions[2]
    assert 3 not in questions


@pytest.mark.parametrize("examples", [None, {}, {"tokens": [[1, 2]]}])
def test_examples_without_prompts_have_no_questions(examples):
    record = OneRecord(examples)
    assert ExampleTexts().read_questions(record, record) == {}
