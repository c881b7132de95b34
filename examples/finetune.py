"""Train a small model while its activations are sparsified, and compare its critical sparsity before and after.

Needs only the zoo, and a few minutes on two cores:

    python examples/finetune.py

One copy of the model is trained dense, the other one with `sparsify`, both on the same documents in the same order. The
documents on which all of them are scored are not used for training.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch

import sparsedial as sd
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.tasks.next_token import NextToken

SITE = "all_inputs"
TEST_VALUES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4)  # of p
TRAINING_DOCUMENTS = 256  # of the 384 held-out documents of the zoo
BATCH = 16  # documents per step


def train(lm: LanguageModel, rows: list[list[int]], steps: int, rule: sd.Rule | None) -> LanguageModel:
    """Return a copy of a model that was trained on documents, sparsified by a rule if there is one."""
    model = copy.deepcopy(lm.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    batches = shuffle_batches(rows, steps)
    with nullcontext() if rule is None else sd.sparsify(model, SITE, rule):
        for step, (ids, mask) in enumerate(batches):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 20 == 0:
                print(f"  step {step}: loss {loss.item():.3f}", flush=True)
    return replace(lm, model=model.eval())


def shuffle_batches(rows: list[list[int]], steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield random batches of token ids and attention masks, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randperm(len(rows), generator=generator)[:BATCH]
        sequences = [torch.tensor(rows[index]) for index in chosen.tolist()]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        yield ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def report(name: str, lm: LanguageModel, task: NextToken, rows: list[list[int]]) -> None:
    """Print the accuracy of a model and its critical sparsity, with the 95% interval."""
    examples = {"tokens": rows}
    dense = task.score(lm, examples)
    points = []
    with sd.sparsify(lm.model, SITE, sd.TopP(TEST_VALUES[0])) as sparsifier:
        for p in TEST_VALUES:
            sparsifier.rule = sd.TopP(p)
            sparsifier.reset()
            scores = task.score(lm, examples, sparsifier)
            points.append((sparsifier.sparsity(), scores.values, p))
    result = sd.critical_sparsity(points, dense=dense.values)
    limit = "at least " if result.right_censored else ""
    print(
        f"{name}: dense accuracy {dense.mean:.2%}, critical sparsity at {SITE} {result.center:.1%} "
        f"(95% interval {result.low:.1%} to {limit}{result.high:.1%})",
        flush=True,
    )


def main() -> None:
    """Train and compare the models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:dense-1.3m", help="Model to train. Default: zoo:dense-1.3m.")
    parser.add_argument("--p", type=float, default=0.6, help="Value of p of top-p during training. Default: 0.6.")
    parser.add_argument("--steps", type=int, default=100, help="Training steps. Default: 100.")
    parser.add_argument("--documents", type=int, default=128, help="Documents to score. Default: 128.")
    options = parser.parse_args()
    torch.manual_seed(0)
    lm = load_language_model(resolve_source(options.model), device="cpu", dtype="float32")
    task = NextToken()
    rows = task.tokenize(lm)
    training_rows = rows[:TRAINING_DOCUMENTS]
    test_rows = rows[TRAINING_DOCUMENTS:][: options.documents]
    report("before training", lm, task, test_rows)
    report("after dense training", train(lm, training_rows, options.steps, None), task, test_rows)
    rule = sd.TopP(options.p)
    report(f"after training with {rule}", train(lm, training_rows, options.steps, rule), task, test_rows)


if __name__ == "__main__":
    main()
