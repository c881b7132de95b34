"""Forward pass of stacked experts that can transform their input (x), up (u), gate (g) and intermediate (i) vectors.

The forward pass performs the same operations in the same order as the experts implementation that the model is
configured to use (``batched_mm``, ``eager`` or, for any other, ``grouped_mm``) and calls the same matrix products. If
no entry is dropped, its outputs are therefore bit-identical to those of transformers. Only ``eager`` and ``batched_mm``
support every dtype, such as float64. The module's own ``_apply_gate`` computes i from the output of the up projection
and does not accept modified vectors u and g. Since i = u * g, an entry that is dropped from u or g is set to zero in i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from transformers.integrations.moe import _batched_linear, _grouped_linear

from sparsedial.moe.routing import RoutedTransform, Routing

VectorFunction = Callable[[torch.Tensor], torch.Tensor]


class TransformFunctions(NamedTuple):
    """A transformation of one vector of all experts of a layer.

    Attributes:
        apply: Function that sparsifies the vector.
        compute: Function that computes u or g of gated experts from the output of the fused gate and up projection. Not
            used for other vectors.
    """

    apply: RoutedTransform
    compute: VectorFunction


class _BatchedPairs:
    """Token-expert pairs in the order of the tokens, each with a copy of its expert's matrix (``batched_mm``).

    Args:
        module: The module that stacks the experts.
        top_k_index: Experts of each token, int64, shape [tokens, active experts].
        top_k_weights: Routing weights, shape [tokens, active experts].

    Attributes:
        routing: Expert, token and routing weight of each pair.
    """

    def __init__(self, module: Any, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> None:
        self._module = module
        tokens, active_experts = top_k_index.shape
        expert = top_k_index.reshape(-1)
        token = torch.arange(tokens * active_experts, device=expert.device) // active_experts
        self.routing = Routing(expert, token, top_k_weights.reshape(-1), tokens)

    def project(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """Return the products of the pairs' vectors and their experts' matrices.

        Args:
            x: One vector per pair, shape [pairs, in_features].
            name: Name of the stacked parameter, such as "down_proj".

        Returns:
            One vector per pair, shape [pairs, out_features].
        """
        expert = self.routing.expert
        matrices = getattr(self._module, name)[expert]
        bias = _gather_bias(self._module, name, expert)
        return _batched_linear(x, matrices, bias=bias, is_transposed=self._module.is_transposed)

    def sum_by_token(self, output: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the sum of the vectors of each token's pairs.

        Args:
            output: One vector per pair, shape [pairs, width].
            dtype: Dtype of the result.

        Returns:
            One vector per token, shape [tokens, width].
        """
        return output.view(self.routing.tokens, -1, output.shape[-1]).sum(dim=1).to(dtype)


class _GroupedPairs:
    """Token-expert pairs sorted by expert, so that each matrix is read once (``grouped_mm``).

    The arguments, attributes and methods are the same as those of `_BatchedPairs`.
    """

    def __init__(self, module: Any, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> None:
        self._module = module
        tokens, active_experts = top_k_index.shape
        expert, self._order = torch.sort(top_k_index.reshape(-1))
        # `bincount` would synchronize with the device, and `histc` needs floating-point values on the CPU and MPS.
        needs_float = expert.device.type in ("cpu", "mps")
        values = expert.to(torch.float32 if needs_float else torch.int32)
        group_sizes = torch.histc(values, bins=module.num_experts, min=0, max=module.num_experts - 1)
        self._group_ends = torch.cumsum(group_sizes, dim=0, dtype=torch.int32)
        weight = top_k_weights.reshape(-1)[self._order]
        self.routing = Routing(expert, self._order // active_experts, weight, tokens)

    def project(self, x: torch.Tensor, name: str) -> torch.Tensor:
        matrices = getattr(self._module, name)
        bias = _gather_bias(self._module, name, self.routing.expert)
        return _grouped_linear(x, matrices, self._group_ends, bias=bias, is_transposed=self._module.is_transposed)

    def sum_by_token(self, output: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        positions = torch.arange(len(self._order), device=self._order.device)
        output = output[torch.zeros_like(self._order).scatter_(0, self._order, positions)]
        return output.view(self.routing.tokens, -1, output.shape[-1]).sum(dim=1).to(dtype)


class _LoopedPairs:
    """Token-expert pairs sorted by expert, whose products are computed for one expert at a time (``eager``).

    The arguments, attributes and methods are the same as those of `_BatchedPairs`.
    """

    def __init__(self, module: Any, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> None:
        self._module = module
        tokens = len(top_k_index)
        # The pairs of an expert are in the order of their routing rank, then of their tokens.
        expert, order = torch.sort(top_k_index.T.reshape(-1), stable=True)
        self._group_sizes: list[int] = torch.bincount(expert, minlength=module.num_experts).tolist()
        weight = top_k_weights.T.reshape(-1)[order]
        self.routing = Routing(expert, order % tokens, weight, tokens)

    def project(self, x: torch.Tensor, name: str) -> torch.Tensor:
        matrices = getattr(self._module, name)
        products = []
        for expert, rows in enumerate(x.split(self._group_sizes)):
            if len(rows) == 0 and len(x) > 0:
                continue
            matrix = matrices[expert]
            if not self._module.is_transposed:
                matrix = matrix.T
            product = rows @ matrix
            if self._module.has_bias:
                product = product + getattr(self._module, f"{name}_bias")[expert]
            products.append(product)
        return torch.cat(products)

    def sum_by_token(self, output: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        output = output.to(dtype)
        total = output.new_zeros(self.routing.tokens, output.shape[-1])
        return total.index_add_(0, self.routing.token, output)


def experts_forward(
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    transforms: Mapping[str, TransformFunctions],
) -> torch.Tensor:
    """Run the experts of a layer and transform their vectors.

    Args:
        module: The module that stacks the experts. Its ``config`` is a `ConfigProxy`.
        hidden_states: Input of the layer, shape [tokens, hidden].
        top_k_index: Experts of each token, int64, shape [tokens, active experts].
        top_k_weights: Routing weights, shape [tokens, active experts].
        transforms: Transformations by vector ("input", "up", "gate" or "intermediate").

    Returns:
        Output of the layer, shape [tokens, hidden].
    """
    pairs = _make_pairs(module, top_k_index, top_k_weights)
    routing = pairs.routing

    if "input" in transforms:
        hidden_states = transforms["input"].apply(hidden_states, routing)
    projected = pairs.project(hidden_states[routing.token], up_parameter_name(module))
    intermediate = _compute_intermediate(module, projected, routing, transforms)
    if "intermediate" in transforms:
        intermediate = transforms["intermediate"].apply(intermediate, routing)
    output = pairs.project(intermediate, "down_proj")
    if getattr(module, "has_post_expert_norm", False):
        output = module.post_expert_norm(output)
    return pairs.sum_by_token(output * routing.weight.unsqueeze(-1), hidden_states.dtype)


def up_parameter_name(module: Any) -> str:
    """Return the name of the stacked parameter that multiplies the input vector.

    Args:
        module: The module that stacks the experts.

    Returns:
        "gate_up_proj" or "up_proj".
    """
    return "gate_up_proj" if module.has_gate else "up_proj"


def _make_pairs(
    module: Any, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> _BatchedPairs | _GroupedPairs | _LoopedPairs:
    """Return the token-expert pairs in the layout of the experts implementation that the model uses."""
    implementation = module.config.config._experts_implementation
    if implementation == "batched_mm":
        return _BatchedPairs(module, top_k_index, top_k_weights)
    if implementation in ("eager", None):
        return _LoopedPairs(module, top_k_index, top_k_weights)
    return _GroupedPairs(module, top_k_index, top_k_weights)


def _compute_intermediate(
    module: Any, projected: torch.Tensor, routing: Routing, transforms: Mapping[str, TransformFunctions]
) -> torch.Tensor:
    """Return the intermediate vector of each pair. Entries dropped from u or g are zero in it."""
    if not module.has_gate:
        if "up" in transforms:
            projected = transforms["up"].apply(projected, routing)
        return module.act_fn(projected)
    dropped_entries = []
    for name in ("up", "gate"):
        if name in transforms:
            vector = transforms[name].compute(projected)
            dropped_entries.append((transforms[name].apply(vector, routing) == 0) & (vector != 0))
    intermediate = module._apply_gate(projected)
    for dropped in dropped_entries:
        intermediate = intermediate.masked_fill(dropped, 0)
    return intermediate


def _gather_bias(module: Any, name: str, expert: torch.Tensor) -> torch.Tensor | None:
    """Return the bias of each pair's expert, or None if the projection has no bias."""
    if not module.has_bias:
        return None
    return getattr(module, f"{name}_bias")[expert]
