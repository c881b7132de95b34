"""Real tokens of a forward pass, read from the arguments of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sparsedial.errors import SpecError
from sparsedial.hooks.forward_context import PREFILL


def read_real_tokens(arguments: Mapping[str, Any], phase: str) -> torch.Tensor | None:
    """Return the real tokens of a forward pass according to its attention mask.

    Args:
        arguments: Arguments of the model's forward, by name.
        phase: "prefill" or "generation".

    Returns:
        Boolean tensor of shape [batch, tokens], False for padding. None if there is no mask, or if its format does not
        describe single tokens.
    """
    mask = arguments.get("attention_mask")
    if mask is None:
        return None
    tokens = arguments.get("input_ids")
    if tokens is None:
        tokens = arguments.get("inputs_embeds")
    if tokens is None:
        return None
    return _read_mask(mask, tokens.shape[1], phase)


def check_token_count(real_tokens: torch.Tensor, arguments: Mapping[str, Any]) -> None:
    """Check that the caller's `real` has one entry per token of the forward pass.

    Args:
        real_tokens: Boolean tensor, as given to `Sparsifier.observe`.
        arguments: Arguments of the model's forward, by name.

    Raises:
        SpecError: The number of entries differs from the number of tokens.
    """
    counts = []
    for name in ("input_ids", "decoder_input_ids"):
        ids = arguments.get(name)
        if isinstance(ids, torch.Tensor):
            counts.append(ids.numel())
    for name in ("inputs_embeds", "decoder_inputs_embeds"):
        embeddings = arguments.get(name)
        if isinstance(embeddings, torch.Tensor):
            counts.append(embeddings.shape[:-1].numel())
    if counts and real_tokens.numel() not in counts:
        raise SpecError(
            f"observe(real=): {real_tokens.numel()} entries for a forward of {counts[0]} tokens. Expected one entry "
            "per token. In `generate`, each forward has different tokens: leave out real= and pass attention_mask."
        )


def _read_mask(mask: Any, length: int, phase: str) -> torch.Tensor | None:
    """Return the real tokens among the last ``length`` tokens of a 2-D or 4-D attention mask."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if not isinstance(mask, torch.Tensor):
        return None
    if mask.dim() == 2:
        return mask[:, -length:] != 0
    if mask.dim() == 4 and mask.shape[2] == length:
        # A 4-D mask is boolean, or is added to the attention scores: then 0 means that a token is attended to.
        attends = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
        if phase == PREFILL:
            return attends.diagonal(dim1=1, dim2=2)  # a real token attends to itself
        return attends.any(-1)
    return None
