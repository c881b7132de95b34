"""Projections: the modules that multiply a vector by a weight matrix.

A projection is recognised by its weight, which is a matrix, or by its attributes ``in_features`` and ``out_features``.
Layers with quantised weights have these attributes, although their weights are packed in tensors of other shapes. So do
the layers of PEFT, which wrap one linear layer and add to its output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# Older versions of AutoGPTQ use the second pair of names.
_FEATURE_ATTRIBUTES = (("in_features", "out_features"), ("infeatures", "outfeatures"))


def is_projection(module: nn.Module) -> bool:
    """Return True if a module multiplies a vector by one matrix and is not an embedding.

    Args:
        module: Any module of a model. Its class and its name do not matter, except for `nn.Embedding`.

    Returns:
        True for `nn.Linear`, the `Conv1D` of transformers, layers with quantised weights, and layers that wrap one
        other projection of the same widths, such as those of LoRA.
    """
    if isinstance(module, nn.Embedding):
        return False
    weight = getattr(module, "weight", None)
    features = _declared_features(module)
    if features is None:
        is_leaf = next(module.children(), None) is None
        return is_leaf and isinstance(weight, torch.Tensor) and weight.dim() == 2
    if isinstance(weight, torch.Tensor) and weight.dim() > 2:
        return False  # The matrices of several experts.
    inner = []
    for child in module.children():
        if isinstance(child, nn.Embedding):
            return False
        if is_projection(child):
            inner.append(child)
    if inner:
        return len(inner) == 1 and (in_features(inner[0]), out_features(inner[0])) == features
    return next(named_projections(module), None) is None


def named_projections(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the projections inside a module, in order, each once. Projections that another one wraps are left out.

    Args:
        model: The module.

    Yields:
        tuple[str, nn.Module]: Path and projection.
    """
    wrapping_path = None
    for path, module in model.named_modules():
        if module is model or (wrapping_path is not None and path.startswith(f"{wrapping_path}.")):
            continue
        if is_projection(module):
            wrapping_path = path
            yield path, module


def out_features(module: nn.Module) -> int:
    """Return the width of a projection's output.

    Args:
        module: A projection. The weight of `nn.Linear` is [out_features, in_features]. The weight of `Conv1D`
            in transformers is [in_features, out_features].

    Returns:
        Number of outputs.
    """
    return _features(module)[1]


def in_features(module: nn.Module) -> int:
    """Return the width of the vector that a projection reads.

    Args:
        module: A projection. `out_features` describes the layouts of its weight.

    Returns:
        Number of inputs.
    """
    return _features(module)[0]


def describe_unknown_packing(model: nn.Module) -> str:
    """Return a sentence about layers whose weights are packed and that do not state their widths.

    Args:
        model: The model.

    Returns:
        The sentence for the first such layer, which says what to do. Empty if there is none.
    """
    for path, module in model.named_modules():
        if next(module.children(), None) is not None or _declared_features(module) is not None:
            continue
        packed = []
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.dim() == 2 and not tensor.is_floating_point():
                packed.append(f"{name}: {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}")
        if packed:
            return (
                f"{path} ({type(module).__name__}) seems to have packed weights ({', '.join(packed)}), whose shapes do "
                "not give the widths of its vectors. Set the attributes in_features and out_features of such modules, "
                "or load the model without quantisation."
            )
    return ""


def _declared_features(module: nn.Module) -> tuple[int, int] | None:
    """Return the numbers of inputs and outputs that a module states, or None if it does not."""
    for names in _FEATURE_ATTRIBUTES:
        inputs, outputs = (getattr(module, name, None) for name in names)
        if isinstance(inputs, int) and isinstance(outputs, int):
            return inputs, outputs
    return None


def _features(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a projection.

    The shape of an ordinary matrix is used even if the module states other widths. This is the case if the matrix was
    pruned, or is one of several that a model distributes over processes.
    """
    declared = _declared_features(module)
    weight = getattr(module, "weight", None)
    if declared is not None and not is_ordinary_matrix(weight):
        return declared
    rows, columns = (int(size) for size in weight.shape)  # type: ignore[union-attr]  # `is_projection` has checked it
    if type(module).__name__ == "Conv1D" or declared == (rows, columns):
        return rows, columns
    return columns, rows


def is_ordinary_matrix(weight: Any) -> bool:
    """Return True if a weight is a matrix of floats that is not packed.

    Args:
        weight: Attribute ``weight`` of a module.
    """
    return type(weight) in (torch.Tensor, nn.Parameter) and weight.dim() == 2 and weight.is_floating_point()
