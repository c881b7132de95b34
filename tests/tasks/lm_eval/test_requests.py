"""Requests: plain JSON on disk, typed records in memory."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from sparsedial.errors import TaskError
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.lm_eval.requests import GenerationRequest, LoglikelihoodRequest, PreparedRequests
from tests.support.lm_eval_tasks import TASKS, load_task


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
