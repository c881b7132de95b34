"""The zoo's corpus: documents sampled from SmolLM2-135M-Instruct, the tokenizer learned from them, and the split.

    python -m sparsedial.zoo.corpus sample FOLDER --shards 0:60      (or 0:60:2 and 1:60:2 on two GPUs)
    python -m sparsedial.zoo.corpus assemble FOLDER

A shard is a batch of documents with a seed of its own, written when it is whole: sampling can be stopped and
started again anywhere, on any number of GPUs, and gives the same documents.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedial.disk import place
from sparsedial.zoo.prompts import prompt
from sparsedial.zoo.recipes import END, MASK, VOCABULARY

TEACHER = "smollm2-135m"
DOCUMENTS, LENGTH = 2048, 320  # of a shard; tokens of a document at most
TEMPERATURE, TOP_P, AMONG = 0.8, 0.9, 256  # top-p within the 256 likeliest tokens
SEED = 20260901
SHORTEST = 20  # words of a document that is kept
HELD_OUT = 100  # one document of so many
EXCERPT = 384  # held-out documents that come with the package
SPECIAL = {END: "<|end|>", MASK: "<|mask|>"}


def sample(folder: Path, shards: Iterable[int], documents: int = DOCUMENTS, length: int = LENGTH) -> None:
    """Write ``shard-NNN.npy`` (token ids of the teacher, uint16 ``[documents, length]``) for each that is missing."""
    from sparsedial.models import load_model
    from sparsedial.sources import find_model

    lm = load_model(find_model(TEACHER), dtype="bfloat16")
    for shard in shards:
        path = folder / f"shard-{shard:03d}.npy"
        if path.exists():
            continue
        began = time.time()
        prompts = [prompt(shard * documents + i) for i in range(documents)]
        uniform = torch.rand(length, documents, generator=torch.Generator().manual_seed(SEED + shard))
        tokens = decode(lm.model, lm.tokenizer, prompts, uniform)
        place(path, _npy(tokens.cpu().numpy().astype(np.uint16)), replace=True)
        print(json.dumps({"shard": shard, "seconds": round(time.time() - began, 1)}), flush=True)


@torch.inference_mode()
def decode(model: Any, tokenizer: Any, prompts: list[str], uniform: torch.Tensor) -> torch.Tensor:
    """Answer all prompts in step: one token of each document at a time, drawn with ``uniform [length, prompts]``.

    It calls the blocks of a Llama itself, with one buffer for keys and values and the queries that share a key
    side by side: at thousands of documents this is several times faster than `generate`.

    Returns:
        int64 ``[prompts, length]``; a document that has ended is filled with the end token.
    """
    from transformers import AttentionInterface

    AttentionInterface.register("side_by_side", _side_by_side)
    device, end = model.device, tokenizer.eos_token_id
    asked = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in prompts]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked]
    longest = max(map(len, ids))
    new = torch.tensor([[end] * (longest - len(row)) + row for row in ids], device=device)
    padding = torch.tensor([longest - len(row) for row in ids], device=device)
    length = len(uniform)
    room = -(-(longest + length) // 8) * 8
    cache = _Cache(model.config, len(ids), room, model.dtype, device)
    place_of = torch.arange(room, device=device)
    uniform = uniform.to(device)
    out = torch.full((len(ids), length), end, device=device)
    done = torch.zeros(len(ids), dtype=torch.bool, device=device)
    before = model.config._attn_implementation
    model.config._attn_implementation = "side_by_side"
    try:
        for step in range(length):
            start, stop = cache.start, cache.start + new.shape[1]
            seen = place_of[: -(-stop // 8) * 8]
            queries = place_of[start:stop]
            hidden = (seen[None, None] > queries[None, :, None]) | (seen[None, None] < padding[:, None, None])
            bias = torch.zeros(hidden.shape, dtype=model.dtype, device=device).masked_fill(hidden, -1e9)
            x = model.model.embed_tokens(new)
            rotary = model.model.rotary_emb(x, position_ids=(queries[None] - padding[:, None]).clamp(min=0))
            for layer in model.model.layers:
                x = layer(x, attention_mask=bias[:, None], position_embeddings=rotary, past_key_values=cache)
            cache.start = stop
            logits = model.lm_head(model.model.norm(x[:, -1]))
            token = _draw(logits, uniform[step])
            out[:, step] = torch.where(done, end, token)
            done |= token == end
            new = token[:, None]
            if step % 32 == 31 and bool(done.all()):
                break
    finally:
        model.config._attn_implementation = before
    return out


def _draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One token of each row: temperature, then top-p within the likeliest, by inverse transform."""
    chances = (logits.float() / TEMPERATURE).softmax(-1)
    best, index = chances.topk(min(AMONG, chances.shape[-1]))
    mass = best.cumsum(-1)
    kept = best.masked_fill(mass - best >= TOP_P, 0.0).cumsum(-1)
    drawn = torch.searchsorted(kept, uniform[:, None] * kept[:, -1:], right=True).clamp(max=best.shape[-1] - 1)
    return index.gather(1, drawn)[:, 0]


class _Cache:
    """Keys and values of every layer in buffers that are filled in step."""

    def __init__(self, config: Any, rows: int, room: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (rows, config.num_key_value_heads, room, config.head_dim)
        both = [torch.zeros(2, *shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.keys_values, self.start = both, 0

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        stop = self.start + keys.shape[2]
        k, v = self.keys_values[layer]
        k[:, :, self.start : stop], v[:, :, self.start : stop] = keys, values
        upto = -(-stop // 8) * 8
        return k[:, :, :upto], v[:, :, :upto]


def _side_by_side(
    module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """Grouped-query attention without repeating keys: the queries of one group become rows of one head."""
    rows, heads, n, width = q.shape
    groups = k.shape[1]
    together = q.reshape(rows, groups, heads // groups * n, width)
    mask = mask.expand(rows, heads // groups, n, -1).reshape(rows, 1, heads // groups * n, -1)
    y = torch.nn.functional.scaled_dot_product_attention(together, k, v, attn_mask=mask, scale=scaling)
    return y.reshape(rows, heads, n, width).transpose(1, 2), None


def assemble(folder: Path) -> dict[str, Any]:
    """From the shards there are: texts, the split, the tokenizer, ``train.npy``, ``heldout.npy``, statistics.

    Empty, short and repeated documents are dropped. One document of ``HELD_OUT``, by its own sha256, is held out.
    """
    from transformers import AutoTokenizer

    from sparsedial.sources import find_model

    teacher = AutoTokenizer.from_pretrained(find_model(TEACHER).path)
    seen: set[str] = set()
    parts: dict[str, list[str]] = {"train": [], "heldout": []}
    counts = {"documents": 0, "teacher_tokens": 0, "too_short": 0, "repeated": 0}
    shards = sorted(folder.glob("shard-*.npy"))
    for path in shards:
        tokens = np.load(path, allow_pickle=False)
        counts["teacher_tokens"] += int((tokens != teacher.eos_token_id).sum())
        for raw in teacher.batch_decode(tokens.astype(np.int64).tolist(), skip_special_tokens=True):
            text = raw.strip()
            counts["documents"] += 1
            name = hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()
            if len(text.split()) < SHORTEST:
                counts["too_short"] += 1
            elif name in seen:
                counts["repeated"] += 1
            else:
                seen.add(name)
                parts["heldout" if int(name[:8], 16) % HELD_OUT == 0 else "train"].append(text)
    tokenizer = learn_tokenizer(parts["train"])
    tokenizer.save_pretrained(folder / "tokenizer")
    statistics: dict[str, Any] = {
        "teacher": TEACHER,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "seed": SEED,
        "shards": len(shards),
        **counts,
        "vocabulary": len(tokenizer),
    }
    for name, texts in parts.items():
        stream = [t for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for t in (END, *ids)]
        data = _npy(np.array(stream, dtype=np.uint16))
        place(folder / f"{name}.npy", data, replace=True)
        statistics[name] = {
            "documents": len(texts),
            "characters": sum(map(len, texts)),
            "tokens": len(stream),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in parts["heldout"][:EXCERPT])
    place(folder / "heldout.jsonl", lines.encode(), replace=True)
    place(folder / "corpus.json", (json.dumps(statistics, indent=1) + "\n").encode(), replace=True)
    return statistics


def learn_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE of ``VOCABULARY`` tokens, the special ones first.

    >>> tokenizer = learn_tokenizer(["a tale of two tales"] * 3)
    >>> tokenizer("two tales")["input_ids"][0] > MASK, tokenizer.decode(tokenizer("two tales")["input_ids"])
    (True, 'two tales')
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[SPECIAL[i] for i in sorted(SPECIAL)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end, mask = SPECIAL[END], SPECIAL[MASK]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end, mask_token=mask,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _shards(text: str) -> range:
    return range(*map(int, text.split(":")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("sample", "assemble"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=_shards, default=range(60))
    arguments = parser.parse_args()
    if arguments.work == "sample":
        sample(arguments.folder, arguments.shards)
    else:
        print(json.dumps(assemble(arguments.folder)))
