"""The evaluation of the thinking model, and the model in the package."""

import json

import pytest
from scipy.stats import spearmanr

from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.models.zoo_package import lm_eval_tasks_folder
from tools.zoo.evaluate_thinking import (
    ThinkingAnswer,
    ThinkingEvaluation,
    evaluate,
    rank_correlation,
    read_answer,
    write_mistakes,
)
from tools.zoo.thinking_corpus import describe_problem
from tools.zoo.thinking_problems import draw_held_out_problems


@pytest.fixture(scope="module")
def thinking_model():
    return load_language_model(resolve_source("zoo:thinking-0.8m"), device="cpu", dtype="float32")


def test_the_model_reaches_the_bars_on_the_first_problems(thinking_model):
    evaluation = evaluate(thinking_model.model, thinking_model.tokenizer, draw_held_out_problems(20))
    assert evaluation.passes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_reaches_the_bars_on_all_held_out_problems(dtype):
    lm = load_language_model(resolve_source("zoo:thinking-0.8m"), device="cpu", dtype=dtype)
    evaluation = evaluate(lm.model, lm.tokenizer, draw_held_out_problems())
    assert evaluation.problems == 500
    assert evaluation.exact >= 0.9
    assert evaluation.closed >= 0.99
    assert evaluation.rank_correlation >= 0.8
    assert evaluation.exact_without_thinking <= 0.3


def test_the_package_holds_the_held_out_problems():
    lines = (lm_eval_tasks_folder() / "thinking_problems.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == list(map(describe_problem, draw_held_out_problems()))


def test_a_thinking_that_does_not_end_has_no_answer():
    assert read_answer(["<think>", "b", "=", "1"]) == ThinkingAnswer(False, 3, "")
    assert read_answer(["<think>", "b", "<|end|>", "</think>", "1"]) == ThinkingAnswer(False, 1, "")
    assert read_answer(["1", "2", "<|end|>"]) == ThinkingAnswer(False, 2, "")


def test_conversations_with_a_mistake_end_with_it():
    problems = draw_held_out_problems(60)
    conversations = list(write_mistakes(problems))
    assert 15 < len(conversations) < 45
    for conversation in conversations:
        question, _, thinking = conversation.partition("<|end|><|assistant|><think>")
        [problem] = [problem for problem in problems if question.endswith(problem.question())]
        correct = "".join(part.text for part in problem.thinking())
        length = len("b=07+5=12")
        assert thinking[:-length] == correct[: len(thinking) - length]
        assert thinking != correct[: len(thinking)]


def test_each_bar_counts():
    good = ThinkingEvaluation(500, 0.9, 0.99, 0.8, 0.3, 60.0, 0.0)
    assert good.passes
    for bad in (
        ThinkingEvaluation(500, 0.89, 0.99, 0.8, 0.3, 60.0, 0.0),
        ThinkingEvaluation(500, 0.9, 0.98, 0.8, 0.3, 60.0, 0.0),
        ThinkingEvaluation(500, 0.9, 0.99, 0.79, 0.3, 60.0, 0.0),
        ThinkingEvaluation(500, 0.9, 0.99, 0.8, 0.31, 60.0, 0.0),
    ):
        assert not bad.passes


def test_the_rank_correlation_is_spearmans():
    first = [1.0, 5.0, 2.0, 2.0, 8.0, 3.0]
    second = [4.0, 9.0, 1.0, 4.0, 4.0, 2.0]
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation([1.0, 2.0], [3.0, 3.0]) == 0.0
