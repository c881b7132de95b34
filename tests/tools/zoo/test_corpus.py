"""The corpus is the same after an interruption, and it is split by document."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from transformers import AutoTokenizer

from tools.zoo.corpus import CorpusRecipe, assemble, sample_shards
from tools.zoo.recipes import END

RECIPE = CorpusRecipe(teacher="zoo:dense-0.4m", documents_per_shard=8, max_document_tokens=48, held_out_every=4)


@pytest.fixture
def folder(tmp_path):
    sample_shards(tmp_path, range(2), RECIPE)
    return tmp_path


def test_a_shard_that_is_sampled_twice_is_the_same(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    before = (folder / "shard-001.npy").stat().st_mtime_ns
    sample_shards(folder, range(2), RECIPE)  # nothing is missing
    sample_shards(other, range(1, 2), RECIPE)
    assert (folder / "shard-001.npy").stat().st_mtime_ns == before
    assert (folder / "shard-001.npy").read_bytes() == (other / "shard-001.npy").read_bytes()


def test_the_corpus_is_split_by_document(folder):
    statistics = assemble(folder, RECIPE)
    both = statistics.train.documents + statistics.heldout.documents
    assert statistics.documents == 16 == both + statistics.too_short + statistics.repeated
    assert asdict(statistics) == json.loads((folder / "corpus.json").read_text())
    stream = np.load(folder / "heldout.npy", allow_pickle=False)
    assert (stream == END).sum() == statistics.heldout.documents > 0
    texts = [json.loads(line)["text"] for line in (folder / "heldout.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    starts = [*np.flatnonzero(stream == END), len(stream)]
    assert tokenizer.decode(stream[starts[0] + 1 : starts[1]]) == texts[0]
    train = tokenizer.decode(np.load(folder / "train.npy", allow_pickle=False))
    assert not any(text in train for text in texts)


def test_the_shipped_corpus_description_has_the_same_fields(folder):
    from sparsedial.models.zoo_package import zoo_folder

    shipped = json.loads((zoo_folder() / "corpus.json").read_text())
    assert list(shipped) == list(asdict(assemble(folder, RECIPE)))
