"""Tokens that the vectors of the output layer belong to.

A model may compute the logits of some tokens only: `generate` asks for those of the last one. The vectors of the output
layer are then fewer than the tokens of the forward pass, and the real tokens among them have to be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.thread_state import current_thread

_stated: dict[int, torch.Tensor] = {}  # by thread


@contextmanager
def state_output_positions(positions: torch.Tensor) -> Iterator[None]:
    """State for which tokens the forward passes of this thread compute logits, inside the `with` block.

    Args:
        positions: Indices of the tokens in the flattened batch, int64 of shape [positions].

    Yields:
        None: Nothing.
    """
    thread = current_thread()
    previous = _stated.get(thread)
    _stated[thread] = positions
    try:
        yield
    finally:
        if previous is None:
            del _stated[thread]
        else:
            _stated[thread] = previous


def find_output_tokens(x: torch.Tensor, context: ForwardContext) -> torch.Tensor | None:
    """Return the token that each vector of the output layer belongs to.

    Args:
        x: The vectors, shape [..., D].
        context: Context of the forward pass.

    Returns:
        Indices of the tokens in the flattened batch, int64 of shape [vectors]. None if there is one vector for each
        token, or if the shapes do not say which tokens were selected.
    """
    if _stated:
        positions = _stated.get(current_thread())
        if positions is not None and positions.numel() == x.shape[:-1].numel():
            return positions.to(x.device, non_blocking=True)
    if context.token_shape is None or x.dim() < 3:
        return None
    rows, count = context.token_shape
    last = x.shape[1]
    if x.shape[0] != rows or last >= count:
        return None
    indices = torch.arange(rows * count, device=x.device).reshape(rows, count)
    return indices[:, count - last :].reshape(-1)
