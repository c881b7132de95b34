"""Requests: plain JSON on disk, typed records in memory."""

import copy
import json
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from sparsedial.errors import TaskError
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.lm_eval.generation_options import GenerationOptions
from sparsedial.tasks.lm_eval.requests import GenerationRequest, LoglikelihoodRequest, PreparedRequests
from tests.support.lm_eval_tasks import DOCUMENTS, TASKS, load_task, write_task


@pytest.mark.parametrize("name", TASKS)
def test_requests_survive_a_round_trip_through_json(folder, lm, name):
    examples = load_task(folder, name).prepare(lm)
    stored = json.loads(json.dumps(examples))
    prepared = PreparedRequests.from_json(stored)
    assert json.loads(json.dumps(prepared.to_json())) == stored
    kinds = {type(request) for request in prepared.requests}
    assert kinds == {GenerationRequest if name == "tiny_write" else LoglikelihoodRequest}


def test_prompts_go_through_the_chat_template(folder, lm):
    task = load_task(folder, "tiny_choice", apply_chat_template=True, limit=2)
    prepared = PreparedRequests.from_json(task.prepare(lm))
    assert lm.tokenizer.decode(prepared.contexts[0]).startswith("<s>user: What falls?")
    bare = PreTrainedTokenizerFast(tokenizer_object=lm.tokenizer._tokenizer, eos_token="</s>", pad_token="<pad>")
    with pytest.raises(TaskError, match="no chat template"):
        task.prepare(LanguageModel(lm.model, bare, lm.source, "float32", lm.device))


def test_a_model_without_a_tokenizer_is_refused(folder, llama, lm):
    with pytest.raises(TaskError, match="no tokenizer"):
        load_task(folder, "tiny_choice").prepare(LanguageModel(llama, None, lm.source, "float32", lm.device))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "TemplateError: Roles must alternate"),
        ({"rag": "x", "tool_use": "y"}, "ValueError: This model has multiple chat templates with no default"),
    ],
)
def test_a_chat_template_that_fails_is_an_error(folder, lm, tokenizer, template, message):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    task = load_task(folder, "tiny_choice", apply_chat_template=True)
    with pytest.raises(TaskError, match=f"the chat template of 'tiny' may not suit the task: .*{message}"):
        task.prepare(replace(lm, tokenizer=other))


def test_a_tokenizer_without_eos_token_ends_texts_at_stop_strings_only(folder, lm, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.eos_token = None
    prepared = PreparedRequests.from_json(load_task(folder, "tiny_write").prepare(replace(lm, tokenizer=other)))
    assert prepared.requests[0].until == ("4", "k")


@pytest.mark.parametrize("name", TASKS)
def test_a_tokenizer_without_bos_and_eos_token_is_refused(folder, lm, tokenizer, name):
    other = copy.deepcopy(tokenizer)
    other.eos_token = other.bos_token = None
    with pytest.raises(TaskError, match="the tokenizer of 'tiny' has neither a BOS nor an EOS token"):
        load_task(folder, name).prepare(replace(lm, tokenizer=other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"until": ["\n", None]}, "the stop string None under until is no text"),
        ({"until": [3]}, "the stop string 3 under until is no text"),
        ({"max_gen_toks": 0}, "max_gen_toks 0 under generation_kwargs: expected at least 1"),
        ({"max_gen_toks": "many"}, "its generation_kwargs .* cannot be read: .*'many'"),
    ],
)
def test_generation_arguments_that_cannot_be_read_are_an_error(tmp_path, lm, arguments, message):
    generation = {**TASKS["tiny_write"]["generation_kwargs"], **arguments}
    write_task(tmp_path, "odd", {**TASKS["tiny_write"], "generation_kwargs": generation}, DOCUMENTS)
    with pytest.raises(TaskError, match=f"task 'odd': {message}"):
        load_task(tmp_path, "odd").prepare(lm)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (110, r"document \d: the prompt has \d+ tokens and up to 110 are generated, expected at most the 128 tokens"),
        (128, "may generate 128 tokens, which leaves no room for a prompt: the model can read 128 tokens"),
    ],
)
def test_a_prompt_that_does_not_fit_is_an_error_before_the_run(folder, lm, limit, message):
    task = load_task(folder, "tiny_write", generation=GenerationOptions(max_gen_toks=limit))
    with pytest.raises(TaskError, match=f"{message}.*Lower --max-gen-toks"):
        task.prepare(lm)


def test_a_prompt_that_is_longer_than_the_model_reads_is_an_error(tmp_path, lm):
    write_task(tmp_path, "long", {**TASKS["tiny_write"], "doc_to_text": "{{question}}" * 20}, DOCUMENTS)
    with pytest.raises(TaskError, match=r"expected at most the 128 tokens that the model can read. Use fewer examples"):
        load_task(tmp_path, "long").prepare(lm)


def test_options_replace_those_of_the_task(folder, lm):
    options = GenerationOptions(max_gen_toks=5, do_sample=True, temperature=0.7)
    prepared = PreparedRequests.from_json(load_task(folder, "tiny_write", generation=options).prepare(lm))
    for request in prepared.requests:
        assert request.limit == 5
        assert request.options == {"do_sample": True, "temperature": 0.7}
    sampled = GenerationOptions(do_sample=True)
    prepared = PreparedRequests.from_json(load_task(folder, "tiny_write", generation=sampled).prepare(lm))
    assert prepared.requests[0].options == {"do_sample": True}  # the temperature is the model's
    assert prepared.requests[0].limit == 12
