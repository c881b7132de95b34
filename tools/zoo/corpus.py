"""The zoo's corpus: documents sampled from SmolLM2-135M-Instruct, a tokenizer trained on them, and the split.

    python -m tools.zoo.corpus sample FOLDER --shards 0:60      (or 0:60:2 and 1:60:2 on two GPUs)
    python -m tools.zoo.corpus assemble FOLDER

A shard is a batch of documents that has its own seed and is written when it is complete. Sampling can be interrupted
and continued at any time, on any number of GPUs, and gives the same documents.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedial.files import write_atomically
from tools.zoo.decoding import Sampling, decode_in_lockstep
from tools.zoo.prompts import make_prompt
from tools.zoo.tokenizer import encode_documents, train_tokenizer

SHIPPED_HELD_OUT_DOCUMENTS = 384  # in the zoo package, for the task next_token


@dataclass(frozen=True)
class CorpusRecipe:
    """Everything that determines the documents of a corpus.

    Attributes:
        teacher: Name of the model that writes the documents.
        documents_per_shard: Number of documents that are sampled together.
        max_document_tokens: Length at which a document is cut off, in tokens of the teacher.
        sampling: Temperature, top-p and top-k.
        seed: Random seed of the first shard. Every further shard adds one.
        min_words: Documents with fewer words are dropped.
        held_out_every: One document in this many is held out.
    """

    teacher: str = "smollm2-135m"
    documents_per_shard: int = 2048
    max_document_tokens: int = 320
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 20260901
    min_words: int = 20
    held_out_every: int = 100


@dataclass(frozen=True)
class PartStatistics:
    """Size and digest of the training part or the held-out part.

    Attributes:
        documents: Number of documents.
        characters: Number of characters in all documents.
        tokens: Number of tokens, with one end token per document.
        sha256: SHA-256 of the file of token IDs, in hexadecimal.
    """

    documents: int
    characters: int
    tokens: int
    sha256: str


@dataclass(frozen=True)
class CorpusStatistics:
    """Contents of ``corpus.json``.

    Attributes:
        teacher: Name of the model that wrote the documents.
        temperature: Sampling temperature.
        top_p: Top-p of the sampling.
        seed: Random seed of the first shard.
        shards: Number of shards.
        documents: Number of documents that were sampled.
        teacher_tokens: Number of tokens that the teacher wrote, without end tokens.
        too_short: Number of documents that were dropped because they have too few words.
        repeated: Number of documents that were dropped because they equal an earlier one.
        vocabulary: Number of tokens of the tokenizer.
        train: The training part.
        heldout: The held-out part.
    """

    teacher: str
    temperature: float
    top_p: float
    seed: int
    shards: int
    documents: int
    teacher_tokens: int
    too_short: int
    repeated: int
    vocabulary: int
    train: PartStatistics
    heldout: PartStatistics


@dataclass
class DocumentSplit:
    """The documents of all shards, split into a training part and a held-out part while they are added.

    Empty, short and repeated documents are dropped. The SHA-256 of a document decides which part it belongs to.

    Attributes:
        recipe: Minimum length and share of held-out documents.
        train: Texts to train on.
        heldout: Texts to test with.
        documents: Number of documents that were added.
        too_short: Number of documents that were dropped because they have too few words.
        repeated: Number of documents that were dropped because they equal an earlier one.
    """

    recipe: CorpusRecipe
    train: list[str] = field(default_factory=list)
    heldout: list[str] = field(default_factory=list)
    documents: int = 0
    too_short: int = 0
    repeated: int = 0
    _digests: set[str] = field(default_factory=set)

    def add(self, text: str) -> None:
        """Add one document to the part it belongs to, or drop it.

        Args:
            text: The document, without white space at its ends.
        """
        self.documents += 1
        words = text.split()
        if len(words) < self.recipe.min_words:
            self.too_short += 1
            return
        digest = hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()
        if digest in self._digests:
            self.repeated += 1
            return
        self._digests.add(digest)
        if int(digest[:8], 16) % self.recipe.held_out_every == 0:
            self.heldout.append(text)
        else:
            self.train.append(text)


def sample_shards(folder: Path, shards: Iterable[int], recipe: CorpusRecipe = CorpusRecipe()) -> None:
    """Sample the shards that are missing and write each of them to ``shard-NNN.npy``.

    A file holds token IDs of the teacher, shape [documents_per_shard, max_document_tokens], uint16.

    Args:
        folder: Folder of the shards. It is created if necessary.
        shards: Numbers of the shards.
        recipe: The documents to sample.
    """
    from sparsedial.models import load_language_model, resolve_source

    lm = load_language_model(resolve_source(recipe.teacher), dtype="bfloat16")
    count = recipe.documents_per_shard
    for shard in shards:
        path = folder / f"shard-{shard:03d}.npy"
        if path.exists():
            continue
        start = time.time()
        prompts = [make_prompt(shard * count + i) for i in range(count)]
        generator = torch.Generator().manual_seed(recipe.seed + shard)
        uniform = torch.rand(recipe.max_document_tokens, count, generator=generator)
        tokens = decode_in_lockstep(lm.model, lm.tokenizer, prompts, uniform, recipe.sampling)
        write_atomically(path, _npy_bytes(tokens.cpu().numpy().astype(np.uint16)), replace=True)
        print(json.dumps({"shard": shard, "seconds": round(time.time() - start, 1)}), flush=True)


def assemble(folder: Path, recipe: CorpusRecipe = CorpusRecipe()) -> CorpusStatistics:
    """Turn the shards in a folder into a corpus.

    It writes ``tokenizer/``, the token IDs ``train.npy`` and ``heldout.npy``, the held-out documents that the zoo
    package ships (``heldout.jsonl``) and the statistics (``corpus.json``).

    Args:
        folder: Folder with the shards.
        recipe: The recipe that the shards were sampled with.

    Returns:
        The statistics of the corpus.
    """
    from transformers import AutoTokenizer

    from sparsedial.models import resolve_source

    teacher = AutoTokenizer.from_pretrained(resolve_source(recipe.teacher).tokenizer_folder)
    split = DocumentSplit(recipe)
    teacher_tokens = 0
    shards = sorted(folder.glob("shard-*.npy"))
    for path in shards:
        tokens = np.load(path, allow_pickle=False)
        teacher_tokens += int((tokens != teacher.eos_token_id).sum())
        for text in teacher.batch_decode(tokens.astype(np.int64).tolist(), skip_special_tokens=True):
            split.add(text.strip())
    tokenizer = train_tokenizer(split.train)
    tokenizer.save_pretrained(folder / "tokenizer")
    statistics = CorpusStatistics(
        teacher=recipe.teacher,
        temperature=recipe.sampling.temperature,
        top_p=recipe.sampling.top_p,
        seed=recipe.seed,
        shards=len(shards),
        documents=split.documents,
        teacher_tokens=teacher_tokens,
        too_short=split.too_short,
        repeated=split.repeated,
        vocabulary=len(tokenizer),
        train=_write_part(folder / "train.npy", split.train, tokenizer),
        heldout=_write_part(folder / "heldout.npy", split.heldout, tokenizer),
    )
    lines = []
    for text in split.heldout[:SHIPPED_HELD_OUT_DOCUMENTS]:
        lines.append(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    write_atomically(folder / "heldout.jsonl", "".join(lines).encode(), replace=True)
    description = json.dumps(asdict(statistics), indent=1) + "\n"
    write_atomically(folder / "corpus.json", description.encode(), replace=True)
    return statistics


def _write_part(path: Path, texts: Sequence[str], tokenizer: Any) -> PartStatistics:
    stream = encode_documents(texts, tokenizer)
    data = _npy_bytes(stream)
    write_atomically(path, data, replace=True)
    return PartStatistics(
        documents=len(texts),
        characters=sum(map(len, texts)),
        tokens=len(stream),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _parse_range(text: str) -> range:
    return range(*map(int, text.split(":")))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("sample", "assemble"))
    parser.add_argument("folder", type=Path, help="Folder of the corpus.")
    parser.add_argument("--shards", type=_parse_range, default=range(60), help="START:STOP[:STEP]. Default: 0:60.")
    arguments = parser.parse_args()
    if arguments.action == "sample":
        sample_shards(arguments.folder, arguments.shards)
    else:
        print(json.dumps(asdict(assemble(arguments.folder))))


if __name__ == "__main__":
    main()
