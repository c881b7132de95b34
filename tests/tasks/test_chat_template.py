"""The chat template of a tokenizer: on, off, or on if the tokenizer has one."""

import pytest

from sparsedial.errors import SpecError, TaskError
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.chat_template import parse_choice, resolve_identity, resolve_task
from sparsedial.tasks.lm_eval.requests import PreparedRequests
from tests.support.lm_eval_tasks import load_task, write_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


@pytest.fixture
def models(trained):
    """One model whose tokenizer has a chat template, and one without."""
    tokenizer = trained.tokenizer
    chat = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, eos_token="</s>", pad_token="<pad>")
    plain = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, eos_token="</s>", pad_token="<pad>")
    chat.chat_template = "{% for m in messages %}Q: {{ m.content }} A:{% endfor %}"
    lms = []
    for other in (chat, plain):
        lms.append(LanguageModel(trained.model, other, trained.source, "float32", trained.device))
    return lms


def first_prompt(task, lm):
    prepared = PreparedRequests.from_json(task.prepare(lm))
    return lm.tokenizer.decode(prepared.contexts[0])


def test_auto_is_what_the_tokenizer_has(folder, models):
    chat, plain = models
    for choice in ("auto", None):
        task = load_task(folder, "tiny_write", apply_chat_template=parse_choice(choice) if choice else None, limit=2)
        assert first_prompt(task, chat).startswith("Q: What falls? A:")
        assert first_prompt(task, plain).startswith("What falls?")
        assert task.identity()["apply_chat_template"] == "auto"
        for lm, name in ((chat, True), (plain, False)):
            resolved = resolve_task(task, lm).identity()
            assert resolved == load_task(folder, "tiny_write", apply_chat_template=name, limit=2).identity()
            assert resolved == resolve_identity(task.identity(), name)


def test_a_template_that_is_not_there_is_an_error_before_the_run(folder, models):
    task = load_task(folder, "tiny_write", apply_chat_template=True, limit=2)
    with pytest.raises(TaskError, match=r"no chat template, and --apply-chat-template is on. Set it to auto or off"):
        task.prepare(models[1])
    assert first_prompt(load_task(folder, "tiny_write", limit=2), models[0]).startswith("What falls?")


def test_choices():
    assert [parse_choice(choice) for choice in (True, False, "on", "off", "auto")] == [True, False, True, False, None]
    with pytest.raises(SpecError, match="apply_chat_template 'maybe': expected one of auto, on, off"):
        parse_choice("maybe")
