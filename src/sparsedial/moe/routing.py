"""Routing of one forward pass: which tokens are sent to which experts of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Routing(NamedTuple):
    """The assignment of tokens to the experts of one layer in one forward pass.

    A pair is one token together with one expert that it is routed to.

    Attributes:
        expert: Expert index of each pair, int64, shape [pairs].
        token: Token index of each pair, int64, shape [pairs].
        weight: Routing weight of each pair, by which the expert's output is multiplied, shape [pairs].
        tokens: Number of tokens.
    """

    expert: torch.Tensor
    token: torch.Tensor
    weight: torch.Tensor
    tokens: int


# Sparsifies one vector of all experts of a layer. The input has shape [tokens, hidden], other vectors [pairs, width].
RoutedTransform = Callable[[torch.Tensor, Routing], torch.Tensor]
