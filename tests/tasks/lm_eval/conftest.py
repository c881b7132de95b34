"""A tiny model with a tokenizer, and a folder of tiny tasks."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sparsedial.models.loading import LanguageModel
from sparsedial.models.sources import Source
from tests.support.lm_eval_tasks import write_tasks

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:?!\n'-"


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *CHARACTERS, "th", "an", "es"])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("a", "n"), ("e", "s")]))
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    return tokenizer


@pytest.fixture
def lm(llama, tokenizer):
    return LanguageModel(llama, tokenizer, Source("tiny", Path(), "directory", "0"), "float32", torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder
