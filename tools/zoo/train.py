"""Trains one model of the zoo on the assembled corpus. An interrupted training continues where it stopped.

    python -m tools.zoo.train dense-5m CORPUS OUT [--seed N] [--steps N]

The forward pass uses bfloat16 weights, the optimizer (AdamW, cosine schedule) float32 weights, on one GPU, or on the
CPU for tests. Losses are written to ``training.jsonl``, the state to ``checkpoint.safetensors`` every few hundred
steps, and the finished model to the same folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.zoo.recipes import RECIPES, WINDOW, Recipe
from tools.zoo.trainer import Trainer

MAX_SHARD_SIZE = "15MB"


@dataclass(frozen=True)
class Intervals:
    """Numbers of optimizer steps between two actions.

    Attributes:
        log: Steps between two lines of the log.
        held_out: Steps between two measurements of the held-out loss. A multiple of ``log``.
        checkpoint: Steps between two checkpoints.
    """

    log: int = 50
    held_out: int = 200
    checkpoint: int = 500


def load_windows(path: Path, device: torch.device) -> torch.Tensor:
    """Load a part of the corpus.

    Args:
        path: A file of token IDs.
        device: Device to keep them on.

    Returns:
        Token IDs, shape [windows, WINDOW], int16. The incomplete last window is dropped.
    """
    stream = np.load(path, allow_pickle=False)
    length = len(stream) // WINDOW * WINDOW
    return torch.from_numpy(stream[:length].astype(np.int16)).view(-1, WINDOW).to(device)


def iterate_batches(windows: torch.Tensor, recipe: Recipe, step: int) -> Iterator[torch.Tensor]:
    """Yield the batches from a step on, without end. Each epoch has its own order, drawn from the seed.

    Args:
        windows: Token IDs, shape [windows, WINDOW].
        recipe: Batch size and seed.
        step: Number of the first batch.

    Yields:
        torch.Tensor: Token IDs, shape [recipe.batch, WINDOW], int64.
    """
    steps_per_epoch = len(windows) // recipe.batch
    while True:
        generator = torch.Generator().manual_seed(recipe.seed * 1009 + step // steps_per_epoch)
        order = torch.randperm(len(windows), generator=generator).to(windows.device)
        for index in range(step % steps_per_epoch, steps_per_epoch):
            yield windows[order[index * recipe.batch : (index + 1) * recipe.batch]].long()
            step += 1


def train_model(
    recipe: Recipe,
    corpus: Path,
    out: Path,
    device: torch.device,
    max_steps: int | None = None,
    intervals: Intervals = Intervals(),
) -> None:
    """Train a model and write it to a folder. Training continues from the folder's checkpoint if there is one.

    Args:
        recipe: The model to train.
        corpus: Folder that `tools.zoo.corpus.assemble` has written.
        out: Folder of the model, the log and the checkpoint. It is created if necessary.
        device: Device to train on.
        max_steps: Stop at this step, with a checkpoint. Defaults to None, train for all steps of the recipe.
        intervals: Steps between log lines and between checkpoints.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = out / "training.jsonl"
    if not log.exists() and any(out.iterdir()):
        raise SystemExit(f"{out}: holds files that are not of a training. Choose a new or empty folder.")
    windows = load_windows(corpus / "train.npy", device)
    held_out_windows = load_windows(corpus / "heldout.npy", device)
    trainer = Trainer(recipe, device)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.load(checkpoint)
    _truncate_log(log, trainer.step)
    last_step = min(max_steps or recipe.steps, recipe.steps)
    start = time.time()
    for tokens in iterate_batches(windows, recipe, trainer.step):
        if trainer.step >= last_step:
            break
        trainer.update(tokens)
        if trainer.step % intervals.log == 0 or trainer.is_finished:
            line = _log_line(trainer)
            if trainer.step % intervals.held_out == 0 or trainer.is_finished:
                line["heldout"] = round(trainer.held_out_loss(held_out_windows), 4)
            line["seconds"] = round(time.time() - start, 1)
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if trainer.step % intervals.checkpoint == 0:
            trainer.save(checkpoint)
    if trainer.is_finished:
        _save_model(trainer, corpus / "tokenizer", out)
        checkpoint.unlink(missing_ok=True)
    else:
        trainer.save(checkpoint)


def _truncate_log(log: Path, step: int) -> None:
    """Drop the lines after a step: these steps will be taken once more."""
    lines = log.read_text().splitlines() if log.exists() else []
    kept_lines = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
    log.write_text("".join(kept_lines))


def _log_line(trainer: Trainer) -> dict[str, Any]:
    loss = float(torch.stack(trainer.unlogged_losses).mean())
    trainer.unlogged_losses.clear()
    return {
        "step": trainer.step,
        "tokens": trainer.step * trainer.recipe.batch * WINDOW,
        "loss": round(loss, 4),
        "rate": round(trainer.rate(), 6),
    }


def _save_model(trainer: Trainer, tokenizer: Path, out: Path) -> None:
    """Write the weights, the tokenizer and the recipe, so that the folder can be loaded as any model."""
    trainer.model.to(torch.bfloat16).save_pretrained(out, max_shard_size=MAX_SHARD_SIZE)
    shutil.copytree(tokenizer, out, dirs_exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(trainer.recipe.to_json(), indent=1) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES), help="Recipe to train.")
    parser.add_argument("corpus", type=Path, help="Folder of the assembled corpus.")
    parser.add_argument("out", type=Path, help="Folder of the model.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed. Default: 0.")
    parser.add_argument("--steps", type=int, help="Stop at this step. Default: train for all steps of the recipe.")
    arguments = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = replace(RECIPES[arguments.name], seed=arguments.seed)
    train_model(recipe, arguments.corpus, arguments.out, device, arguments.steps)


if __name__ == "__main__":
    main()
