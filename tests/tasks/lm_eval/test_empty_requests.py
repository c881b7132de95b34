"""Requests that have no token to score, no context or no prompt, compared with lm-eval's own model."""

import json

import pytest

from sparsedial.errors import TaskError
from tests.support.lm_eval_tasks import lm_eval_responses, load_task, write_task

TEXTS = ["Once upon a time", "", "   ", "\n", "Tom had a red ball."]
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "byte_perplexity"}],
}
PAIR = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{continuation}}",
    "metric_list": [{"metric": "acc"}],
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Tom",
    "doc_to_target": 0,
    "doc_to_choice": "{{options}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
WRITE = {
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "x",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match"}],
}


def answers(task, lm):
    """Return the first response to each request, after a round trip of the examples through JSON."""
    examples = json.loads(json.dumps(task.prepare(lm)))
    return [responses[0] for responses in task.answer(lm, examples).responses]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[1:], ["", ""]])
def test_an_empty_document_has_the_log_likelihood_zero(tmp_path, trained, texts):
    write_task(tmp_path, "rolling", ROLLING, [{"text": text} for text in texts])
    task = load_task(tmp_path, "rolling")
    actual = answers(task, trained)
    assert actual == pytest.approx(lm_eval_responses(task, trained), abs=1e-4)
    assert actual[texts.index("")] == 0.0


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("", " ran"), ("", "   "), ("Tom ", ""), ("Tom", "\n"), ("<|end|>", " ran"), ("", "<|end|> ran")],
)
def test_short_requests_have_the_numbers_of_lm_eval(tmp_path, trained, context, continuation):
    documents = [{"context": "Tom", "continuation": " ran"}, {"context": context, "continuation": continuation}]
    write_task(tmp_path, "pair", PAIR, documents)
    task = load_task(tmp_path, "pair")
    for actual, expected in zip(answers(task, trained), lm_eval_responses(task, trained), strict=True):
        assert actual == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("context", "continuation"), [("Tom", ""), ("", ""), ("", "<|end|>")])
def test_an_empty_continuation_has_the_log_likelihood_zero(tmp_path, trained, context, continuation):
    documents = [{"context": "Tom", "continuation": " ran"}, {"context": context, "continuation": continuation}]
    write_task(tmp_path, "pair", PAIR, documents)
    assert answers(load_task(tmp_path, "pair"), trained)[1] == (0.0, True)


def test_an_empty_option_has_the_number_of_lm_eval(tmp_path, trained):
    write_task(tmp_path, "choice", CHOICE, [{"options": [" ran", "x"]}, {"options": [" ran", "", "x"]}])
    task = load_task(tmp_path, "choice")
    actual = answers(task, trained)
    assert actual[3] == (0.0, True)
    for response, expected in zip(actual, lm_eval_responses(task, trained), strict=True):
        assert response == pytest.approx(expected, abs=1e-4)


def test_a_context_without_tokens_is_refused(tmp_path, trained):
    documents = [{"context": "Tom", "continuation": " ran"}, {"context": "  ", "continuation": " ran"}]
    write_task(tmp_path, "pair", PAIR, documents)
    with pytest.raises(TaskError, match="document 1: the context has no token"):
        load_task(tmp_path, "pair").prepare(trained)


def test_an_empty_prompt_is_refused(tmp_path, trained):
    write_task(tmp_path, "write", WRITE, [{"text": "Tom saw"}, {"text": ""}])
    with pytest.raises(TaskError, match="document 1: the prompt '' has no token"):
        load_task(tmp_path, "write").prepare(trained)
