"""What sparsity changes on LAMBADA, example by example: accuracy, log-likelihood and the kind of the predicted token.

The file holds one JSON object per line with the keys ``context`` and ``continuation``. An example is correct if greedy
decoding gives a space and the continuation, which is ``acc`` of lm-eval's task lambada_openai. Each sparse model is
compared with the dense one on the same examples: how many became correct or wrong, the exact McNemar test of these two
numbers, and the paired 95% interval of retention.

    python -m benchmarks.bench_lambada smollm2-135m --data lambada_openai.jsonl
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.environment import describe_machine, package_versions
from sparsedial.curves import make_curve, pair_scores, retention_intervals
from sparsedial.ffn.discovery import find_ffns
from sparsedial.hooks.sparsifier import Sparsifier, sparsify
from sparsedial.inference.logit_budget import max_logit_positions
from sparsedial.inference.loglikelihood import compute_logits
from sparsedial.inference.model_limits import find_padding_token
from sparsedial.inference.prefix_tree import Batch, BatchLimits, Window, batch_trees, build_prefix_trees
from sparsedial.inference.run_context import RunContext
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.rules import TopP

KINDS = ("word", "word part", "punctuation", "newline", "other")
"""Kinds of tokens. A word begins with a space and a letter, a word part with a letter or an apostrophe and a letter."""

FREQUENT_TOKENS = 100
"""Number of tokens that count as frequent: those that occur in most of the contexts."""

Scores = dict[str, np.ndarray]


class Examples:
    """The examples in the tokens of a model, and what does not depend on the model's predictions.

    Args:
        windows: Context and continuation of every example.

    Attributes:
        contexts: The set of tokens of each context.
        is_repeated: Whether the first token of the continuation occurs in the context, shape [N].
        frequent: The `FREQUENT_TOKENS` tokens that occur in most of the contexts.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = windows
        self.contexts = [set(window.context) for window in windows]
        self.is_repeated = self.occur_in_contexts([window.continuation[0] for window in windows])
        counts = Counter(chain.from_iterable(self.contexts))
        self.frequent = [token for token, _ in counts.most_common(FREQUENT_TOKENS)]

    def occur_in_contexts(self, tokens: Iterable[int]) -> np.ndarray:
        """Return whether each example's token occurs in its context, shape [N]."""
        return np.array([token in context for token, context in zip(tokens, self.contexts, strict=True)])


def read_windows(lm: LanguageModel, path: Path, limit: int | None, prefix: str) -> list[Window]:
    """Encode the examples as lm-eval does: context and continuation together, split after the context's own tokens."""
    windows = []
    for line in path.read_text().splitlines()[:limit]:
        example = json.loads(line)
        text = prefix + example["context"]
        context = text.rstrip()
        ending = text[len(context) :] + " " + example["continuation"]
        tokens = lm.tokenizer.encode(context + ending)
        length = len(lm.tokenizer.encode(context))
        windows.append(Window(tokens[:length], tokens[length:]))
    return windows


def make_batches(lm: LanguageModel, windows: Sequence[Window], batch_tokens: int) -> list[Batch]:
    """Return the batches of all windows, in which each window is a group of its own."""
    limits = BatchLimits(batch_tokens, max_logit_positions(lm.model))
    trees = build_prefix_trees([[window] for window in windows], 1 << 30, 0)
    return list(batch_trees(trees, limits, find_padding_token(lm.model)))


def classify_tokens(lm: LanguageModel, size: int) -> torch.Tensor:
    """Return the index in `KINDS` of every token of the vocabulary, int64 of shape [size]."""
    special = set(lm.tokenizer.all_special_ids)
    kinds = []
    for token in range(size):
        text = "" if token in special else lm.tokenizer.decode([token])
        if "\n" in text:
            kinds.append(KINDS.index("newline"))
        elif text.startswith(" ") and text[1:2].isalpha():
            kinds.append(KINDS.index("word"))
        elif text.lstrip("'’")[:1].isalpha():
            kinds.append(KINDS.index("word part"))
        elif text.strip() and not any(map(str.isalnum, text)):
            kinds.append(KINDS.index("punctuation"))
        else:
            kinds.append(KINDS.index("other"))
    return torch.tensor(kinds)


@torch.inference_mode()
def score(lm: LanguageModel, batches: Sequence[Batch], kinds: torch.Tensor, run: RunContext) -> Scores:
    """Return one value per example of each measure. All but the first two concern the first token after the context."""
    masks = torch.nn.functional.one_hot(kinds, len(KINDS)).float().to(lm.device)
    keys: list[tuple[int, int]] = []
    columns: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        logits = compute_logits(lm.model, batch, run).float()
        rows = batch.logit_rows.to(lm.device)
        targets = batch.targets.to(lm.device)
        windows = batch.windows.to(lm.device)
        log_probabilities = logits.log_softmax(-1)
        likelihoods = log_probabilities[rows, targets].double()
        misses = (logits.argmax(-1)[rows] != targets).double()
        sums = torch.zeros(len(batch.keys), 2, dtype=torch.float64, device=lm.device)
        sums.index_add_(0, windows, torch.stack([likelihoods, misses], 1))
        is_first = torch.ones_like(windows, dtype=torch.bool)
        is_first[1:] = windows[1:] != windows[:-1]
        first = log_probabilities[rows[is_first]]
        best, prediction = first.max(-1)
        values = {
            "loglikelihood": sums[:, 0],
            "correct": sums[:, 1] == 0,
            "prediction": prediction,
            "is_right": prediction == targets[is_first],
            "confidence": best.exp(),
            "entropy": -(first.exp() * first).sum(-1),
            "masses": first.exp() @ masks,
        }
        for name, column in values.items():
            columns.setdefault(name, []).append(column.cpu())
        keys += batch.keys
    order = np.argsort([group for group, _ in keys])
    return {name: torch.cat(parts).numpy()[order] for name, parts in columns.items()}


def compare(examples: Examples, dense: Scores, sparse: Scores, sparsity: float, kinds: np.ndarray) -> dict[str, Any]:
    """Return the measures of a sparse model beside those of the dense one, as plain JSON."""
    before = dense["correct"]
    after = sparse["correct"]
    gained = int((after & ~before).sum())
    lost = int((before & ~after).sum())
    paired = pair_scores(make_curve([(sparsity or 1.0, after.astype(float))], before.astype(float)))
    assert paired is not None
    [low], [high] = retention_intervals(paired)
    change = sparse["loglikelihood"] - dense["loglikelihood"]
    return {
        "sparsity": round(sparsity, 4),
        "accuracy": round(float(after.mean()), 4),
        "retention": round(float(after.mean() / before.mean()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "gained": gained,
        "lost": lost,
        "p_value": float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        "loglikelihood_change": round(float(change.mean()), 4),
        "loglikelihood_error": round(float(change.std(ddof=1) / len(change) ** 0.5), 4),
        **describe(examples, sparse, kinds),
        "gained_from": count_kinds(kinds[dense["prediction"][after & ~before]]),
        "lost_to": count_kinds(kinds[sparse["prediction"][before & ~after]]),
    }


def describe(examples: Examples, scores: Scores, kinds: np.ndarray) -> dict[str, Any]:
    """Return measures of one model: perplexity of the continuation, confidence, and the kinds of predicted tokens."""
    return {
        "perplexity": round(float(np.exp(-scores["loglikelihood"].mean())), 3),
        "confidence": round(float(scores["confidence"].mean()), 4),
        "first_token_accuracy": round(float(scores["is_right"].mean()), 4),
        "entropy": round(float(scores["entropy"].mean()), 4),
        "predicted": count_kinds(kinds[scores["prediction"]]),
        "accuracy_repeated": round(float(scores["correct"][examples.is_repeated].mean()), 4),
        "accuracy_new": round(float(scores["correct"][~examples.is_repeated].mean()), 4),
        "predicted_from_context": round(float(examples.occur_in_contexts(scores["prediction"]).mean()), 4),
        "predicted_frequent": round(float(np.isin(scores["prediction"], examples.frequent).mean()), 4),
        "masses": {kind: round(float(mass), 4) for kind, mass in zip(KINDS, scores["masses"].mean(0), strict=True)},
    }


def count_kinds(kinds: np.ndarray) -> dict[str, int]:
    """Return how often each kind occurs."""
    return {kind: int((kinds == index).sum()) for index, kind in enumerate(KINDS)}


@contextmanager
def scale_outputs(modules: Iterable[torch.nn.Module], factor: float) -> Iterator[None]:
    """Multiply the outputs of modules inside the ``with`` block."""
    handles = [module.register_forward_hook(lambda _, args, output: output * factor) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_mean(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list that collects the sum of the vectors that a module reads and, as its last entry, their number."""
    sums: list[torch.Tensor] = []

    def add(_: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        vectors = args[0].flatten(0, -2).double()
        sums.append(torch.cat([vectors.sum(0), vectors.new_tensor([len(vectors)])]))

    handle = module.register_forward_hook(add)
    try:
        yield sums
    finally:
        handle.remove()


@contextmanager
def shift_inputs(module: torch.nn.Module, vector: torch.Tensor) -> Iterator[None]:
    """Add a constant vector to the vectors that a module reads inside the ``with`` block."""
    handle = module.register_forward_pre_hook(lambda _, args: (args[0] + vector.to(args[0].dtype), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


class Benchmark:
    """A model, its examples and the scores of the dense model.

    Args:
        lm: The model.
        examples: The examples.
        batch_tokens: Tokens per forward pass.
    """

    def __init__(self, lm: LanguageModel, examples: Examples, batch_tokens: int) -> None:
        self.lm = lm
        self.examples = examples
        self.ffns = find_ffns(lm.model)
        self.output_layer = lm.model.get_output_embeddings()
        self._batches = make_batches(lm, examples.windows, batch_tokens)
        self._kinds = classify_tokens(lm, self.output_layer.weight.shape[0])
        self._dense, self._dense_mean = self._score(None)

    def _score(self, sparsifier: Sparsifier | None) -> tuple[Scores, torch.Tensor]:
        """Return the scores, and the mean of the last hidden states at the scored positions."""
        with record_mean(self.output_layer) as sums:
            scores = score(self.lm, self._batches, self._kinds, RunContext(sparsifier))
        total = torch.stack(sums).sum(0)
        return scores, total[:-1] / total[-1]

    def describe_dense(self) -> dict[str, Any]:
        """Return the measures of the dense model."""
        return {
            "site": None, "examples": len(self.examples.windows), "repeated": int(self.examples.is_repeated.sum()),
            "accuracy": round(float(self._dense["correct"].mean()), 4),
            **describe(self.examples, self._dense, self._kinds.numpy()),
            "machine": describe_machine(), "versions": package_versions(),
        }  # fmt: skip

    def compare_scaled(self, factor: float) -> dict[str, Any]:
        """Return the measures of the dense model with the outputs of all FFNs multiplied."""
        with scale_outputs([ffn.down for ffn in self.ffns], factor):
            scores, _ = self._score(None)
        return {"site": "dense, FFN outputs scaled", "scale": factor, **self._compare(scores, 0.0)}

    def compare_sparse(self, site: str, p: float, layers: Sequence[int] | None, constant: bool) -> list[dict[str, Any]]:
        """Return the measures of a sparse model and, with ``constant``, of the dense and the sparse model shifted."""
        began = time.perf_counter()
        with sparsify(self.lm.model, site, TopP(p), ffns=self.ffns, layers=layers) as sparsifier:
            scores, mean = self._score(sparsifier)
        sparsity = sparsifier.sparsity()
        rows = [{"seconds": round(time.perf_counter() - began, 2), **self._compare(scores, sparsity)}]
        if constant:
            change = mean - self._dense_mean
            with shift_inputs(self.output_layer, change):
                scores, _ = self._score(None)
            rows.append({"control": "dense plus the mean change", **self._compare(scores, 0.0)})
            with (
                shift_inputs(self.output_layer, -change),
                sparsify(self.lm.model, site, TopP(p), ffns=self.ffns, layers=layers) as sparsifier,
            ):
                scores, _ = self._score(sparsifier)
            rows.append({"control": "sparse minus the mean change", **self._compare(scores, sparsity)})
        return [{"site": site, "p": p, **row} for row in rows]

    def _compare(self, scores: Scores, sparsity: float) -> dict[str, Any]:
        return compare(self.examples, self._dense, scores, sparsity, self._kinds.numpy())


def parse_layers(text: str) -> list[int] | None:
    """Return the layers of a range such as 25-29, or None for an empty text."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1)) if text else None


def main() -> None:
    """Measure the dense model, then every site with every p, then dense models with scaled FFN outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sites", default="input,up,gate,intermediate,all_inputs")
    parser.add_argument("--p", default="0.99,0.97,0.9,0.8")
    parser.add_argument("--layers", default="", help="ranges of layers to measure one by one, such as 0-9,10-19")
    parser.add_argument(
        "--constant",
        action="store_true",
        help="also add the mean change of the last hidden state to the dense model, and take it from the sparse one",
    )
    parser.add_argument("--scales", default="", help="also measure dense models whose FFN outputs are multiplied")
    parser.add_argument("--prefix", default="", help="text before every context, such as <|endoftext|>")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="file to which the lines of JSON are appended")
    args = parser.parse_args()
    lm = load_language_model(resolve_source(args.model), device=args.device, dtype=args.dtype)
    examples = Examples(read_windows(lm, args.data, args.limit, args.prefix))
    benchmark = Benchmark(lm, examples, args.batch_tokens)

    def report(row: dict[str, Any]) -> None:
        line = json.dumps({"model": args.model.split("/")[-1], "dtype": args.dtype, "prefix": args.prefix, **row})
        print(line, flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(line + "\n")

    report(benchmark.describe_dense())
    values = [float(text) for text in args.p.split(",")]
    for site, part, p in product(filter(None, args.sites.split(",")), args.layers.split(","), values):
        for row in benchmark.compare_sparse(site, p, parse_layers(part), args.constant):
            report({"layers": part, **row})
    for factor in map(float, filter(None, args.scales.split(","))):
        report(benchmark.compare_scaled(factor))


if __name__ == "__main__":
    main()
