"""Texts and tokens that a model cannot read are refused before a forward pass, with a message that says what to do."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparsedial.errors import TaskError
from sparsedial.tasks import NextToken
from tests.support.diffusion_tasks import make_small_task
from tests.support.tasks import make_task


def make_tokenizer(words, **special_tokens):
    """Return a tokenizer of the words w0, w1, ..., with special tokens after them."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", *(f"w{i}" for i in range(words - 1))])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    tokenizer.add_special_tokens(special_tokens)
    return tokenizer


@pytest.fixture
def short_lm(trained, gpt2):
    """A GPT-2 with 128 learned positions and 96 tokens, all of which its tokenizer uses."""
    return replace(trained, model=gpt2, tokenizer=make_tokenizer(96))


@pytest.fixture
def text(tmp_path):
    """Two documents, of 3 and of 200 words."""
    path = tmp_path / "documents.txt"
    path.write_text("w1 w2 w3\n" + " ".join(f"w{i % 90}" for i in range(200)) + "\n")
    return str(path)


def test_a_document_longer_than_the_positions_is_refused(short_lm, text):
    message = "would read 199 tokens of document 2, but the model has 128 positions: use a smaller length"
    with pytest.raises(TaskError, match=message):
        NextToken(text=text, length=500).prepare(short_lm)


def test_a_document_that_fills_the_positions_is_scored(short_lm, text):
    task = NextToken(text=text, length=128)
    assert len(task.score(short_lm, task.prepare(short_lm)).values) == 2


def test_a_masked_document_longer_than_the_positions_is_refused(diffusion_lm, tmp_path):
    path = tmp_path / "documents.txt"
    path.write_text("a lighthouse keeper wrote a letter. " * 100)
    with pytest.raises(TaskError, match="would read 257 tokens of document 1, but the model has 256 positions"):
        make_task("masked_token", text=str(path), length=256).prepare(diffusion_lm)
    task = make_task("masked_token", text=str(path), length=255)
    assert len(task.score(diffusion_lm, task.prepare(diffusion_lm)).values) == 1


@pytest.mark.parametrize("name", ["self_prediction", "next_token"])
def test_a_bos_token_that_the_model_lacks_is_refused(short_lm, name):
    lm = replace(short_lm, tokenizer=make_tokenizer(96, bos_token="<s>"))
    with pytest.raises(TaskError, match=r"uses the token 96 \('<s>'\), but the model's embedding has 96 rows"):
        make_small_task(name).prepare(lm)


@pytest.mark.parametrize("name", ["self_prediction", "restoration", "denoising", "masked_token"])
def test_a_bos_token_that_a_diffusion_model_lacks_is_refused(diffusion_lm, name):
    rows = diffusion_lm.model.config.vocab_size
    lm = replace(diffusion_lm, tokenizer=make_tokenizer(rows, bos_token="<s>"))
    with pytest.raises(TaskError, match=rf"uses the token {rows} \('<s>'\)"):
        make_small_task(name).prepare(lm)


def test_a_word_that_the_model_lacks_is_refused(short_lm, text):
    lm = replace(short_lm, tokenizer=make_tokenizer(96, additional_special_tokens=["w200"]))
    Path(text).write_text("w1 w2 w200\n")
    with pytest.raises(TaskError, match=r"uses the token 96 \('w200'\).*the tokenizer does not belong"):
        NextToken(text=text).prepare(lm)


def test_a_padding_token_that_the_model_lacks_is_not_used(short_lm, text):
    lm = replace(short_lm, tokenizer=make_tokenizer(96, pad_token="<pad>"))
    task = NextToken(text=text, length=100)
    assert len(task.score(lm, task.prepare(lm)).values) == 2
