"""Next-token accuracy: one score per document, and padding is never counted."""

import hashlib
import json

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError, TaskError
from sparsedial.tasks import NextToken
from tests.support.tasks import make_task


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "documents.txt"
    path.write_text("The history of bridges is long.\n\nWhy?\nA lighthouse keeper wrote a letter to his sister.\n")
    return str(path)


def test_each_document_has_its_own_score(trained, text):
    task = NextToken(text=text, batch=3)
    examples = task.prepare(trained)
    assert len({len(row) for row in examples["tokens"]}) > 1
    values = task.score(trained, examples).values
    for row, value in zip(examples["tokens"], values, strict=True):
        with torch.inference_mode():
            best = trained.model(input_ids=torch.tensor([row[:-1]])).logits[0].argmax(-1)
        assert value == pytest.approx((best == torch.tensor(row[1:])).double().mean().item())


def test_padding_is_not_counted(trained, text):
    task = NextToken(text=text, batch=3)
    examples = task.prepare(trained)
    with sd.sparsify(trained.model, "input", sd.TopP(0.9)) as sparsifier:
        task.score(trained, examples, sparsifier)
    table = sparsifier.stats()
    hidden = trained.model.config.hidden_size
    assert set(table["total"]) == {hidden * sum(len(row) - 1 for row in examples["tokens"])}
    assert set(table["phase"]) == {"prefill"}


def test_the_identity_follows_the_text(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Another.\n")
    identities = [NextToken(text=path).identity() for path in (None, text, str(other))]
    assert len({identity["text"] for identity in identities}) == 3
    task = make_task("next_token", text=text, limit=2)
    assert task.identity()["examples"] == [0, 2]


@pytest.mark.parametrize(
    ("content", "limit", "message"),
    [(None, None, "No such file"), ("", None, "0 documents"), ("one\n", 2, "1 documents found, expected at least 2"),
     ('{"words": 1}\n', None, "expected a line such as")],
)  # fmt: skip
def test_an_unusable_text_is_refused(tmp_path, content, limit, message):
    path = tmp_path / ("t.jsonl" if content and content[0] == "{" else "t.txt")
    if content is not None:
        path.write_text(content)
    with pytest.raises(SpecError, match=message):
        make_task("next_token", text=str(path), limit=limit)


def test_a_diffusion_model_is_refused(diffusion_lm):
    with pytest.raises(TaskError, match="is masked-diffusion: use masked_token instead"):
        NextToken(limit=2).prepare(diffusion_lm)


def test_a_limit_of_zero_is_refused():
    with pytest.raises(SpecError, match="limit=0: expected at least 1"):
        NextToken(limit=0)


INSIDE_A_LINE = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r"  # str.splitlines splits at each of these


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_only_line_feeds_separate_documents(tmp_path, suffix, line_end):
    documents = [f"one{character}two" for character in INSIDE_A_LINE]
    lines = documents
    if suffix == ".jsonl":
        lines = [json.dumps({"text": document}, ensure_ascii=False) for document in documents]
    path = tmp_path / f"documents{suffix}"
    path.write_bytes("\ufeff".encode() + line_end.join([*lines, " ", ""]).encode())
    task = NextToken(text=str(path))
    assert task.identity()["examples"] == [0, len(documents)]
    assert task.identity()["text"] == hashlib.sha256("\0".join(documents).encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("t.jsonl", b'{"text": 5}\n', "t.jsonl', line 1: the text is 5.*expected a line such as"),
     ("t.jsonl", b'{"text": "a"}\n\n{"title": "b"}\n', "t.jsonl', line 3: no key 'text' in '{\"title\": \"b\"}'"),
     ("t.jsonl", b'{"text": "a"}\n[1]\n', "t.jsonl', line 2: no key 'text'"),
     ("t.jsonl", b'{"text": "a"}\n{"text": \n', "t.jsonl', line 2: Expecting value"),
     ("t.txt", b"caf\xe9\n", "expected a file in UTF-8")],
)  # fmt: skip
def test_an_unreadable_document_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError, match=message):
        NextToken(text=str(tmp_path / name))
