"""lm-eval's tasks: its numbers exactly, and errors where a score would mean nothing."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from transformers import GPTNeoConfig, GPTNeoForCausalLM

import sparsedial as sd
from sparsedial.errors import TaskError
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from sparsedial.tasks.lm_eval.generation_options import GenerationOptions
from sparsedial.testing import check_task
from tests.support.lm_eval_tasks import (
    DOCUMENTS,
    TASKS,
    lm_eval_responses,
    load_task,
    make_hflm,
    write_task,
    write_yaml,
)


def loglikelihoods(responses):
    """Return the log-likelihoods among lm-eval's responses."""
    return np.array([response[0] if isinstance(response, tuple) else response for response in responses])


def first_responses(task, lm, examples, sparsifier=None):
    """Return the first response to each request."""
    return [responses[0] for responses in task.answer(lm, examples, sparsifier).responses]


@pytest.mark.parametrize("name", TASKS)
def test_tasks_of_lm_eval_pass_the_suite_of_tasks(folder, lm, name):
    check_task(load_task(folder, name), lm, examples=len(DOCUMENTS))


# ---------------------------------------------------------------------- the same numbers as lm-eval's


@pytest.mark.parametrize("shots", [0, 1])
@pytest.mark.parametrize("name", TASKS)
def test_answers_are_those_of_lm_evals_own_model(folder, lm, name, shots):
    settings = {} if name == "tiny_rolling" else {"num_fewshot": shots}
    task = load_task(folder, name, **settings)
    task.lm_eval_task.set_fewshot_seed(seed=task.settings.seed)
    expected = lm_eval_responses(task, lm)
    examples = json.loads(json.dumps(task.prepare(lm)))  # plain JSON, so that a run can resume from disk
    actual = first_responses(task, lm, examples)
    if name == "tiny_write":
        assert actual == expected
        return
    np.testing.assert_allclose(loglikelihoods(actual), loglikelihoods(expected), atol=1e-4)
    if name != "tiny_rolling":
        assert [greedy for _, greedy in actual] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("model", ["llama", "phi3", "gpt2"])
def test_sharing_prefixes_changes_no_number(folder, lm, tokenizer, request, model):
    model = request.getfixturevalue(model)
    lm = LanguageModel(model, tokenizer, lm.source, "float32", lm.device)
    task = load_task(folder, "tiny_choice")
    examples = task.prepare(lm)
    assert examples["share_up_to"] > 0
    shared = first_responses(task, lm, examples)
    unshared = task.answer(lm, {**examples, "share_up_to": 0}).responses
    unshared_first = [responses[0] for responses in unshared]
    np.testing.assert_allclose(loglikelihoods(shared), loglikelihoods(unshared_first), atol=1e-4)
    assert np.array_equal(task.score(lm, examples).values, task.judge(examples, unshared).values)


def test_windows_by_position_are_detected(tmp_path, tokenizer, lm):
    """Compare a model whose local attention follows the order of the tokens in the row, not their positions."""
    torch.manual_seed(0)
    layers = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 48}
    model = GPTNeoForCausalLM(GPTNeoConfig(hidden_size=32, num_heads=4, vocab_size=96, **layers)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    lm = LanguageModel(model, tokenizer, lm.source, "float32", lm.device)
    options = [f"{word} and then some more words" for word in ("one", "two", "three")]
    documents = [{"question": "Which?", "options": options, "gold": 0}] * 2
    write_task(tmp_path, "local", TASKS["tiny_choice"], documents)
    task = load_task(tmp_path, "local")
    actual = first_responses(task, lm, task.prepare(lm))
    np.testing.assert_allclose(loglikelihoods(actual), loglikelihoods(lm_eval_responses(task, lm)), atol=1e-3)


def test_scores_are_lm_evals(folder, lm):
    with silence_lm_eval():
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
        results = simple_evaluate(make_hflm(lm), tasks=[*TASKS], task_manager=manager, bootstrap_iters=0)["results"]
    for name in TASKS:
        task = load_task(folder, name)
        scores = task.score(lm, task.prepare(lm))
        assert len(scores.values) == len(DOCUMENTS)
        for key, value in results[name].items():
            metric = key.removesuffix(",none")
            if metric in scores.details:
                assert scores.details[metric] == pytest.approx(value, rel=1e-5)
        if name != "tiny_rolling":
            assert scores.metric in scores.details
            assert scores.mean == pytest.approx(scores.details[scores.metric])


def test_answers_with_a_chat_template_are_lm_evals(folder, lm):
    task = load_task(folder, "tiny_choice", apply_chat_template=True, limit=2)
    template = make_hflm(lm).apply_chat_template
    chat = {"apply_chat_template": True, "chat_template": template, "fewshot_as_multiturn": True}
    actual = first_responses(task, lm, task.prepare(lm))
    np.testing.assert_allclose(loglikelihoods(actual), loglikelihoods(lm_eval_responses(task, lm, **chat)), atol=1e-4)


@pytest.mark.parametrize("apply_chat_template", [False, True])
@pytest.mark.parametrize("stop", ["4", " an", "esan", "Q: never"])
def test_generated_texts_are_lm_evals(tmp_path, lm, stop, apply_chat_template):
    """Compare greedy texts with those of lm-eval's own model, one prompt at a time."""
    arguments = {"until": [stop], "do_sample": False, "max_gen_toks": 24}
    write_task(tmp_path, "stops", {**TASKS["tiny_write"], "generation_kwargs": arguments}, DOCUMENTS)
    task = load_task(tmp_path, "stops", apply_chat_template=apply_chat_template)
    chat = {}
    if apply_chat_template:
        chat = {"apply_chat_template": True, "chat_template": make_hflm(lm).apply_chat_template}
    assert first_responses(task, lm, task.prepare(lm)) == lm_eval_responses(task, lm, **chat)


def test_options_of_generated_texts_are_part_of_the_identity(folder):
    """Check that they are not if they are those of the task, so that earlier trials are found."""
    identity = load_task(folder, "tiny_write").identity()
    assert "generation" not in identity
    assert load_task(folder, "tiny_write", generation=GenerationOptions(temperature=0.7)).identity() == identity
    for options in ({"max_gen_toks": 12}, {"do_sample": True}, {"do_sample": True, "temperature": 0.7}):
        other = load_task(folder, "tiny_write", generation=GenerationOptions(**options)).identity()
        assert {**other, "generation": None} == {**identity, "generation": None}
        assert other["generation"].items() >= options.items()


def test_sampled_texts_depend_on_the_seed_only(folder, lm):
    answers = []
    for seed, batch_tokens in ((1, 1), (1, 4096), (2, 4096)):
        options = GenerationOptions(do_sample=True, temperature=1.0)
        task = load_task(folder, "tiny_write", generation=options, seed=seed, batch_tokens=batch_tokens)
        answers.append(first_responses(task, lm, task.prepare(lm)))
    assert answers[0] == answers[1] != answers[2]


def test_the_dense_value_gives_the_dense_scores(folder, lm):
    task = load_task(folder, "tiny_choice", limit=3)
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "all_inputs", sd.TopP(1)) as sparsifier:
        assert task.answer(lm, examples, sparsifier) == task.answer(lm, examples)


def test_the_metric_can_be_changed(folder, lm):
    task = load_task(folder, "tiny_choice", metrics={"tiny_choice": "acc_norm"})
    scores = task.score(lm, task.prepare(lm))
    assert scores.metric == "acc_norm"
    assert scores.mean == scores.details["acc_norm"]
    task = load_task(folder, "tiny_last", metrics={"tiny_last": "perplexity"})
    scores = task.score(lm, task.prepare(lm))
    assert scores.metric == "inverse_perplexity"
    assert (scores.values > 0).all() and (scores.values < 1).all()
    assert -np.log(scores.values).mean() == pytest.approx(np.log(scores.details["perplexity"]))


REPEATED = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "x",
    "repeats": 4,
    "generation_kwargs": {"until": ["@"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 12},
    "metric_list": [{"metric": "exact_match"}],
}


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_repeats_of_a_prompt_are_different_samples(tmp_path, lm, batch_tokens):
    write_task(tmp_path, "repeated", REPEATED, DOCUMENTS[:3])
    expected = load_task(tmp_path, "repeated")
    task = load_task(tmp_path, "repeated", batch_tokens=batch_tokens)
    examples = task.prepare(lm)
    responses = task.answer(lm, examples).responses
    assert [len(set(texts)) for texts in responses] == [4, 4, 4]
    assert responses == expected.answer(lm, examples).responses


def test_a_further_metric_may_not_fit_the_data(folder, lm):
    task = load_task(folder, "tiny_f1")  # scikit-learn refuses f1 for more than two classes
    scores = task.score(lm, task.prepare(lm))
    assert scores.metric == "acc" and "f1" not in scores.details


# ---------------------------------------------------------------------- errors


def test_a_nan_loglikelihood_is_an_error(folder, lm):
    task = load_task(folder, "tiny_choice")
    examples = task.prepare(lm)
    weight = lm.model.model.norm.weight
    original = weight.data.clone()
    weight.data[0] = float("nan")
    try:
        with pytest.raises(TaskError, match=r"tiny_choice.*document \d.*NaN"):
            task.score(lm, examples)
    finally:
        weight.data.copy_(original)


def test_nan_logits_are_an_error_while_generating(folder, lm):
    task = load_task(folder, "tiny_write")
    examples = task.prepare(lm)
    weight = lm.model.lm_head.weight
    original = weight.data.clone()
    weight.data[-1] = float("nan")
    try:
        with pytest.raises(TaskError, match="logits are NaN"):
            task.score(lm, examples)
    finally:
        weight.data.copy_(original)


def test_fewer_examples_than_requested_are_an_error(folder, lm, monkeypatch):
    task = load_task(folder, "tiny_choice", limit=4)
    examples = task.prepare(lm)
    build = task.lm_eval_task.build_all_requests
    monkeypatch.setattr(
        task.lm_eval_task, "build_all_requests", lambda limit, **arguments: build(limit=limit - 1, **arguments)
    )
    with pytest.raises(TaskError, match="made requests for 3 examples, expected 4"):
        task.prepare(lm)
    short = {**examples, "requests": [request for request in examples["requests"] if request["doc"] < 3]}
    with pytest.raises(TaskError, match="scored 3 examples, expected 4"):
        task.score(lm, short)


# ---------------------------------------------------------------------- identity


def test_the_batch_changes_neither_the_identity_nor_the_prepared_requests(folder, lm):
    task = load_task(folder, "tiny_choice")
    for batch_tokens in (1, 64, 1 << 16):
        changed = load_task(folder, "tiny_choice", batch_tokens=batch_tokens)
        assert changed.identity() == task.identity()
        assert changed.prepare(lm) == task.prepare(lm)
    assert task.with_batch(3).settings.batch_tokens == 3 * 512
    assert task.batch_rows(lm) == 8


def test_the_identity_follows_everything_that_changes_the_score(folder, tmp_path):
    base = load_task(folder, "tiny_choice").identity()
    assert json.loads(json.dumps(base)) == base
    assert load_task(folder, "tiny_choice").identity() == base
    for change in ({"limit": 3}, {"num_fewshot": 2}, {"seed": 1}, {"apply_chat_template": True}):
        assert load_task(folder, "tiny_choice", **change).identity() != base
    config = yaml.safe_load((folder / "tiny_choice.yaml").read_text())
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(document) + "\n" for document in reversed(DOCUMENTS)))
    data = {"dataset_kwargs": {**config["dataset_kwargs"], "data_files": {"test": str(other)}}}
    for number, change in enumerate(({"doc_to_text": "{{question}}"}, data)):
        (tmp_path / str(number)).mkdir()
        write_yaml(tmp_path / str(number) / "tiny_choice.yaml", {**config, **change})
        assert load_task(tmp_path / str(number), "tiny_choice").identity() != base


def with_late_token(tokenizer, **special_tokens):
    """Return a tokenizer with a special token whose ID is beyond the model's embedding."""
    longer = copy.deepcopy(tokenizer)
    longer.add_special_tokens({"additional_special_tokens": [f"<x{index}>" for index in range(96)]})
    longer.add_special_tokens(special_tokens)
    return longer


def test_a_token_that_the_model_lacks_is_refused(folder, lm, tokenizer):
    lm = replace(lm, tokenizer=with_late_token(tokenizer, bos_token="<b>"))
    with pytest.raises(TaskError, match=r"uses the token 173 \('<b>'\), but the model's embedding has 96 rows"):
        load_task(folder, "tiny_rolling").prepare(lm)


def test_a_padding_token_that_the_model_lacks_is_not_used(folder, lm, tokenizer):
    task = load_task(folder, "tiny_write")
    expected = task.score(lm, task.prepare(lm)).values
    lm = replace(lm, tokenizer=with_late_token(tokenizer, pad_token="<p>"))
    assert lm.tokenizer.pad_token_id == 173
    assert (task.score(lm, task.prepare(lm)).values == expected).all()
