"""Trains one model of the zoo on the assembled corpus; stopped at any moment, it goes on where it was.

    python -m sparsedial.zoo.train dense-5m CORPUS OUT [--seed N] [--steps N]

bfloat16 weights for the forward, float32 ones for the optimizer (AdamW), cosine schedule, one GPU (or a CPU, for
a test). Loss and held-out loss go to ``training.jsonl``, the state every few hundred steps to
``checkpoint.safetensors``, the finished model beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from sparsedial.zoo.recipes import MASK, RECIPES, WINDOW, Recipe

WARMUP, LAST_RATE = 0.02, 0.05  # shares: of the steps; of the highest learning rate at the end
BETAS, DECAY, CLIP = (0.9, 0.95), 0.1, 1.0
REPORT, KEEP = 50, 500  # steps between lines in the log (held-out loss: every fourth), and between checkpoints
HELD_OUT_WINDOWS = 512
LARGEST_FILE = "15MB"


class Training:
    """A model under training: weights, optimizer, and the step it is at."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.step = recipe, 0
        self.losses: list[torch.Tensor] = []  # since the last line of the log
        model = recipe.model()
        self.master = [p.detach().float().to(device).requires_grad_() for p in model.parameters()]
        self.model = model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).train()
        self.weights = list(self.model.parameters())
        groups = [
            {"params": [p for p in self.master if p.dim() > 1], "weight_decay": DECAY},
            {"params": [p for p in self.master if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=BETAS, fused=True)

    def rate(self) -> float:
        """The learning rate of this step: linear warm-up, then a cosine down to ``LAST_RATE`` of the highest."""
        warm = max(1, int(WARMUP * self.recipe.steps))
        if self.step < warm:
            return self.recipe.rate * (self.step + 1) / warm
        done = (self.step - warm) / max(1, self.recipe.steps - warm)
        return self.recipe.rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done)))

    def update(self, tokens: torch.Tensor) -> None:
        """One step on ``tokens [windows, WINDOW]``; the loss stays on the device."""
        generator = torch.Generator(tokens.device).manual_seed(self.recipe.seed * 1_000_003 + self.step)
        loss = loss_of(self.model, self.recipe, tokens, generator)
        loss.backward()
        for weight, master in zip(self.weights, self.master, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        nn.utils.clip_grad_norm_(self.master, CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.master)
        self.step += 1
        self.losses.append(loss.detach().float())

    def save(self, path: Path) -> None:
        """Everything that the next step depends on; whole or not at all."""
        state = {f"weight.{i}": p.detach() for i, p in enumerate(self.master)}
        state["losses"] = torch.stack(self.losses) if self.losses else torch.zeros(0)
        for i, p in enumerate(self.master):
            state |= {f"{name}.{i}": self.optimizer.state[p][name] for name in ("exp_avg", "exp_avg_sq", "step")}
        part = path.with_name(f".{path.name}")
        save_file(state, part, {"step": str(self.step), "recipe": json.dumps(self.recipe.to_json())})
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a saved state."""
        with safe_open(path, "pt") as file:
            seen = Recipe.from_json(json.loads(file.metadata()["recipe"]))
            if seen != self.recipe:
                raise SystemExit(f"{path}: of another recipe ({seen}); remove it to start again")
            self.step = int(file.metadata()["step"])
            self.losses = list(file.get_tensor("losses").to(self.master[0].device))
            with torch.no_grad():
                for i, p in enumerate(self.master):
                    p.copy_(file.get_tensor(f"weight.{i}"))
                    names = ("exp_avg", "exp_avg_sq", "step")
                    self.optimizer.state[p] = {n: file.get_tensor(f"{n}.{i}").to(p.device) for n in names}
                torch._foreach_copy_(self.weights, self.master)


def loss_of(model: Any, recipe: Recipe, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Next-token cross-entropy, or LLaDA's bound for a diffusion model (arXiv 2502.09992, equation 3).

    There, each window draws a share t of tokens to mask, and the cross-entropy of the masked ones counts 1/t.
    """
    if recipe.kind != "diffusion":
        extra = {"output_router_logits": True} if recipe.kind == "moe" and model.training else {}
        return model(input_ids=tokens, labels=tokens, use_cache=False, **extra).loss
    rows = len(tokens)
    spread = torch.arange(rows, device=tokens.device) / rows  # t is spread evenly over a batch
    t = ((torch.rand(1, generator=generator, device=tokens.device) + spread) % 1.0).clamp(min=1 / WINDOW)
    masked = torch.rand(tokens.shape, generator=generator, device=tokens.device) < t[:, None]
    logits = model(input_ids=tokens.masked_fill(masked, MASK)).logits
    each = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none")
    return (each.view_as(tokens) * masked / t[:, None]).mean()


def windows(path: Path, device: torch.device) -> torch.Tensor:
    """The corpus as ``[windows, WINDOW]`` token ids (int16 on the device: the vocabulary is small)."""
    stream = np.load(path, allow_pickle=False)
    whole = len(stream) // WINDOW * WINDOW
    return torch.from_numpy(stream[:whole].astype(np.int16)).view(-1, WINDOW).to(device)


def batches(data: torch.Tensor, recipe: Recipe, step: int) -> Iterator[torch.Tensor]:
    """The batches from ``step`` on: each epoch in an order of its own, drawn from the seed."""
    each = len(data) // recipe.batch
    while True:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(recipe.seed * 1009 + step // each))
        order = order.to(data.device)
        while True:
            at = step % each
            yield data[order[at * recipe.batch : (at + 1) * recipe.batch]].long()
            step += 1
            if step % each == 0:
                break


@torch.no_grad()
def held_out(training: Training, data: torch.Tensor) -> float:
    """The mean loss over the first held-out windows (a diffusion model's: with masks that stay the same)."""
    training.model.eval()
    generator = torch.Generator(data.device).manual_seed(0)
    chunks = data[:HELD_OUT_WINDOWS].split(128)
    losses = [loss_of(training.model, training.recipe, c.long(), generator) * len(c) for c in chunks]
    training.model.train()
    return float(torch.stack(losses).sum() / sum(map(len, chunks)))


def train(recipe: Recipe, corpus: Path, out: Path, device: torch.device, steps: int | None = None) -> None:
    """Train until the recipe's last step (or only to ``steps``), then write the model.

    Args:
        recipe: what to train. corpus: a folder that `corpus.assemble` has written. out: made if need be.
    """
    out.mkdir(parents=True, exist_ok=True)
    data, unseen = windows(corpus / "train.npy", device), windows(corpus / "heldout.npy", device)
    training = Training(recipe, device)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists():
        training.load(checkpoint)
    log = out / "training.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    lines = [line for line in lines if json.loads(line)["step"] <= training.step]  # what came after is done again
    log.write_text("".join(line + "\n" for line in lines))
    last, began = min(steps or recipe.steps, recipe.steps), time.time()
    for tokens in batches(data, recipe, training.step):
        if training.step >= last:
            break
        training.update(tokens)
        if training.step % REPORT == 0 or training.step == recipe.steps:
            line = {
                "step": training.step,
                "tokens": training.step * recipe.batch * WINDOW,
                "loss": round(float(torch.stack(training.losses).mean()), 4),
                "rate": round(training.rate(), 6),
            }
            if training.step % (4 * REPORT) == 0 or training.step == recipe.steps:
                line["heldout"] = round(held_out(training, unseen), 4)
            line["seconds"] = round(time.time() - began, 1)
            training.losses.clear()
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if training.step % KEEP == 0:
            training.save(checkpoint)
    if training.step == recipe.steps:
        training.model.to(torch.bfloat16).save_pretrained(out, max_shard_size=LARGEST_FILE)
        shutil.copytree(corpus / "tokenizer", out, dirs_exist_ok=True)
        (out / "recipe.json").write_text(json.dumps(recipe.to_json(), indent=1) + "\n")
        checkpoint.unlink(missing_ok=True)
    else:
        training.save(checkpoint)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="stop after this many, to go on later")
    arguments = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train(
        replace(RECIPES[arguments.name], seed=arguments.seed), arguments.corpus, arguments.out, where, arguments.steps
    )
