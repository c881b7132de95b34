"""The weights of projections: their matrices, and a fingerprint that tells models and layers apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from sparsedial.ffn.projections import in_features, is_ordinary_matrix

FINGERPRINT_VALUES = 64
"""Number of values of each weight that are part of a fingerprint."""


def read_matrix(module: nn.Module) -> torch.Tensor | None:
    """Return the matrix by which a projection multiplies its input.

    Args:
        module: A projection.

    Returns:
        The weight, shape [outputs, inputs]. None if it is quantised or not loaded, or if an adapter adds to it.

    Example:
        >>> read_matrix(nn.Linear(3, 2)).shape
        torch.Size([2, 3])
    """
    weight = getattr(module, "weight", None)
    is_wrapper = next(module.children(), None) is not None
    if is_wrapper or not isinstance(weight, torch.Tensor) or not is_ordinary_matrix(weight) or weight.is_meta:
        return None
    if type(module).__name__ == "Conv1D" or weight.shape[1] != in_features(module):
        return weight.T
    return weight


def read_matrices(modules: Iterable[nn.Module]) -> list[torch.Tensor] | None:
    """Return the matrix of each of several projections, or None if one cannot be read. See `read_matrix`.

    Args:
        modules: The projections.
    """
    matrices = []
    for module in modules:
        matrix = read_matrix(module)
        if matrix is None:
            return None
        matrices.append(matrix)
    return matrices


def compute_fingerprint(modules: Iterable[nn.Module]) -> str:
    """Return a digest of the shapes and of a few values of the weights of modules.

    Two layers, and two models that were trained differently, have different fingerprints.

    Args:
        modules: The modules.

    Returns:
        A SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            if tensor.is_meta or not tensor.numel():
                continue
            flat = tensor.detach().flatten()
            values = flat[:: max(1, len(flat) // FINGERPRINT_VALUES)].double().cpu()
            digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()
