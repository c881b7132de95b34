"""A model of the zoo in training: weights, optimizer, loss and checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tools.zoo.recipes import MASK, START, WINDOW, Recipe

WARMUP_SHARE = 0.02  # of all steps
FINAL_RATE_SHARE = 0.05  # of the highest learning rate
IGNORED_LABEL = -100  # of a token that is not learned
ADAM_BETAS = (0.9, 0.95)
ADAM_STATE = ("exp_avg", "exp_avg_sq", "step")
WEIGHT_DECAY = 0.1
MAX_GRADIENT_NORM = 1.0
MAX_HELD_OUT_WINDOWS = 512
HELD_OUT_BATCH = 128


class Trainer:
    """A model in training, with its optimizer and its current step.

    Args:
        recipe: Architecture and training of the model.
        device: Device to train on. On the CPU all weights are float32.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.step = 0
        self.unlogged_losses: list[torch.Tensor] = []
        model = recipe.build_model()
        self.master_weights = [p.detach().float().to(device).requires_grad_() for p in model.parameters()]
        self.model = model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).train()
        self.weights = list(self.model.parameters())
        groups = [
            {"params": [p for p in self.master_weights if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in self.master_weights if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=ADAM_BETAS, fused=True)

    @property
    def is_finished(self) -> bool:
        """True if the model has been trained for all steps of the recipe."""
        return self.step == self.recipe.steps

    def rate(self) -> float:
        """Return the learning rate of the current step: linear warm-up, then a cosine schedule."""
        warmup_steps = max(1, int(WARMUP_SHARE * self.recipe.steps))
        if self.step < warmup_steps:
            return self.recipe.rate * (self.step + 1) / warmup_steps
        progress = (self.step - warmup_steps) / max(1, self.recipe.steps - warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.recipe.rate * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * cosine)

    def update(self, tokens: torch.Tensor) -> None:
        """Take one optimizer step. The loss stays on the device.

        Args:
            tokens: Token IDs, shape [windows, WINDOW], int64.
        """
        generator = torch.Generator(tokens.device).manual_seed(self.recipe.seed * 1_000_003 + self.step)
        loss = compute_loss(self.model, self.recipe, tokens, generator)
        loss.backward()
        for weight, master in zip(self.weights, self.master_weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        nn.utils.clip_grad_norm_(self.master_weights, MAX_GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        self._copy_master_weights()
        self.step += 1
        self.unlogged_losses.append(loss.detach().float())

    @torch.no_grad()
    def held_out_loss(self, windows: torch.Tensor) -> float:
        """Return the mean loss over the first held-out windows. The masks of a diffusion model are always the same.

        Args:
            windows: Token IDs, shape [windows, WINDOW].

        Returns:
            The mean loss per token.
        """
        self.model.eval()
        generator = torch.Generator(windows.device).manual_seed(0)
        windows = windows[:MAX_HELD_OUT_WINDOWS]
        losses = []
        for batch in windows.split(HELD_OUT_BATCH):
            losses.append(compute_loss(self.model, self.recipe, batch.long(), generator) * len(batch))
        self.model.train()
        return float(torch.stack(losses).sum() / len(windows))

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on. An older checkpoint is replaced in one step.

        Args:
            path: File of the checkpoint.
        """
        state = {"losses": torch.stack(self.unlogged_losses) if self.unlogged_losses else torch.zeros(0)}
        for i, master in enumerate(self.master_weights):
            state[f"weight.{i}"] = master.detach()
            for name in ADAM_STATE:
                state[f"{name}.{i}"] = self.optimizer.state[master][name]
        part = path.with_name(f".{path.name}")
        save_file(state, part, {"step": str(self.step), "recipe": json.dumps(self.recipe.to_json())})
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Args:
            path: A file that `save` has written.

        Raises:
            SystemExit: The checkpoint belongs to another recipe.
        """
        with safe_open(path, "pt") as file:
            saved_recipe = Recipe.from_json(json.loads(file.metadata()["recipe"]))
            if saved_recipe != self.recipe:
                raise SystemExit(
                    f"{path}: the checkpoint is of another recipe ({saved_recipe}). Remove it to start over."
                )
            self.step = int(file.metadata()["step"])
            self.unlogged_losses = list(file.get_tensor("losses").to(self.master_weights[0].device))
            for i, master in enumerate(self.master_weights):
                with torch.no_grad():
                    master.copy_(file.get_tensor(f"weight.{i}"))
                state = {name: file.get_tensor(f"{name}.{i}").to(master.device) for name in ADAM_STATE}
                self.optimizer.state[master] = state
        self._copy_master_weights()

    @torch.no_grad()
    def _copy_master_weights(self) -> None:
        torch._foreach_copy_(self.weights, self.master_weights)


def compute_loss(model: Any, recipe: Recipe, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the training loss of a batch.

    It is the next-token cross-entropy, or for a diffusion model LLaDA's bound (arXiv 2502.09992, equation 3): each
    window draws a share t of tokens to mask, and the cross-entropy of a masked token is weighted by 1/t.

    Args:
        model: The model.
        recipe: Its recipe, which determines the kind of loss.
        tokens: Token IDs, shape [windows, WINDOW], int64. For a thinking model, the complement ``~id`` stands for a
            token that is read but not learned.
        generator: Random numbers for the masks.

    Returns:
        The mean loss per token, a scalar.
    """
    if recipe.kind == "diffusion":
        return _diffusion_loss(model, tokens, generator)
    if recipe.kind == "thinking":
        return _conversation_loss(model, tokens)
    options = {"output_router_logits": True} if recipe.kind == "moe" and model.training else {}
    return model(input_ids=tokens, labels=tokens, use_cache=False, **options).loss


def _conversation_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the learned tokens of packed conversations, which do not see each other."""
    token_ids = torch.where(tokens < 0, ~tokens, tokens)
    labels = tokens.masked_fill(tokens < 0, IGNORED_LABEL)
    indices = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    starts = indices.masked_fill(token_ids != START, 0).cummax(1).values
    return model(input_ids=token_ids, labels=labels, position_ids=indices - starts, use_cache=False).loss


def _diffusion_loss(model: Any, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    rows = len(tokens)
    offsets = torch.arange(rows, device=tokens.device) / rows  # t is spread evenly over a batch
    t = ((torch.rand(1, generator=generator, device=tokens.device) + offsets) % 1.0).clamp(min=1 / WINDOW)
    is_masked = torch.rand(tokens.shape, generator=generator, device=tokens.device) < t[:, None]
    logits = model(input_ids=tokens.masked_fill(is_masked, MASK)).logits
    losses = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none")
    return (losses.view_as(tokens) * is_masked / t[:, None]).mean()
