"""The corpus: sampled as `generate` would, the same after an interruption, split by document."""

import json

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.zoo import corpus
from sparsedial.zoo.prompts import prompt
from sparsedial.zoo.recipes import END


def test_greedy_decoding_in_step_is_what_generate_gives(trained, monkeypatch):
    monkeypatch.setattr(corpus, "TOP_P", 1e-9)  # only the likeliest token is left
    prompts = [prompt(i) for i in range(5)]
    length = 12
    found = corpus.decode(trained.model, trained.tokenizer, prompts, torch.full((length, len(prompts)), 0.5))
    assert len({len(trained.tokenizer(text)["input_ids"]) for text in prompts}) > 1  # some are padded
    for text, row in zip(prompts, found, strict=True):
        asked = trained.tokenizer(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")
        ids = {key: asked[key] for key in ("input_ids", "attention_mask")}
        best = trained.model.generate(**ids, max_new_tokens=length, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert row[: len(best)].tolist() == best.tolist()


def test_what_is_drawn_from_is_what_top_p_keeps(monkeypatch):
    monkeypatch.setattr(corpus, "TEMPERATURE", 1.0)
    logits = 3 * torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    drawn = corpus._draw(logits.expand(len(uniform), -1), uniform)
    chances = logits.softmax(-1)
    kept, _ = sd.apply_rule(chances, sd.TopP(corpus.TOP_P))  # a nucleus is top-p of the chances
    share = torch.bincount(drawn, minlength=64) / len(uniform)
    torch.testing.assert_close(share, (kept / kept.sum())[0], atol=2e-4, rtol=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "TEACHER", "zoo:dense-0.4m")
    monkeypatch.setattr(corpus, "HELD_OUT", 4)
    corpus.sample(tmp_path, range(2), documents=8, length=48)
    return tmp_path


def test_a_shard_is_the_same_when_sampled_again(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    before = (folder / "shard-001.npy").stat().st_mtime_ns
    corpus.sample(folder, range(2), documents=8, length=48)  # nothing is missing
    corpus.sample(other, range(1, 2), documents=8, length=48)
    assert (folder / "shard-001.npy").stat().st_mtime_ns == before
    assert (folder / "shard-001.npy").read_bytes() == (other / "shard-001.npy").read_bytes()


def test_the_corpus_is_split_by_document(folder):
    statistics = corpus.assemble(folder)
    both = statistics["train"]["documents"] + statistics["heldout"]["documents"]
    assert statistics["documents"] == 16 == both + statistics["too_short"] + statistics["repeated"]
    assert statistics == json.loads((folder / "corpus.json").read_text())
    stream = np.load(folder / "heldout.npy", allow_pickle=False)
    assert (stream == END).sum() == statistics["heldout"]["documents"] > 0
    texts = [json.loads(line)["text"] for line in (folder / "heldout.jsonl").read_text().splitlines()]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.decode(stream[1 : np.flatnonzero(stream == END)[1]] if len(texts) > 1 else stream[1:]) == texts[0]
    train = tokenizer.decode(np.load(folder / "train.npy", allow_pickle=False))
    assert not any(text in train for text in texts)
