"""Projections: the leaf modules that multiply a vector by a 2-D weight matrix."""

from __future__ import annotations

import torch
from torch import nn


def is_projection(module: nn.Module) -> bool:
    """Return True if a module is a leaf with a 2-D weight and is not an embedding.

    Args:
        module: Any module of a model. Its class and its name do not matter, except for `nn.Embedding`.

    Returns:
        True for `nn.Linear`, the `Conv1D` of transformers, and similar modules.
    """
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, torch.Tensor)
        and weight.dim() == 2
        and next(module.children(), None) is None
        and not isinstance(module, nn.Embedding)
    )


def out_features(module: nn.Module) -> int:
    """Return the width of a projection's output.

    Args:
        module: A projection. The weight of `nn.Linear` is [out_features, in_features]. The weight of `Conv1D`
            in transformers is [in_features, out_features].

    Returns:
        Number of outputs.
    """
    dimension = 1 if type(module).__name__ == "Conv1D" else 0
    return int(module.weight.shape[dimension])  # type: ignore[index]  # `is_projection` has checked the weight


def in_features(module: nn.Module) -> int:
    """Return the width of the vector that a projection reads.

    Args:
        module: A projection. `out_features` describes the layouts of its weight.

    Returns:
        Number of inputs.
    """
    return sum(module.weight.shape) - out_features(module)  # type: ignore[arg-type]  # as in `out_features`
