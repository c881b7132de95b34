"""Discovery of experts that a trace does not contain, because no token was routed to them or they are stacked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsedial.ffn.elementwise_trace import ProjectionCall
from sparsedial.ffn.layer_locator import LayerLocator, parent_path
from sparsedial.ffn.projections import is_projection
from sparsedial.ffn.trace_matching import Match, match_module

if TYPE_CHECKING:
    from sparsedial.moe.stacked_experts import ExpertShape

FLOAT64_EXPERTS_HINT = (
    "The model's experts have float64 weights, for which transformers' default implementation of experts has no matrix "
    "product. Load the model in another dtype (--dtype), or call model.set_experts_implementation('eager')."
)


@dataclass(frozen=True, eq=False)
class StackedExperts:
    """A module that stacks the weights of a layer's experts in one parameter per projection.

    Attributes:
        path: Path of the module.
        module: The module.
        expert: The FFN of one expert, found by tracing modules that do what the expert does. Its names are the paths
            of the stacked parameters.
        shape: Number of experts and widths of their vectors.
        active_fraction: Fraction of the experts that each token is routed to. None if it is unknown.
    """

    path: str
    module: nn.Module
    expert: Match
    shape: ExpertShape
    active_fraction: float | None

    @property
    def expert_paths(self) -> list[str]:
        """One path for each expert, formed as if the experts were children of the module."""
        return [f"{self.path}.{index}" for index in range(self.shape.experts)]


@contextmanager
def record_active_experts(model: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Record how many experts each token is routed to, in every module that stacks experts.

    Args:
        model: The model. It must be called inside the `with` block.

    Yields:
        dict[nn.Module, int]: Number of active experts per token, by module. The forward pass adds the entries.
    """
    counts: dict[nn.Module, int] = {}

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) == 3:  # Hidden states, expert indices [tokens, active experts] and routing weights.
            counts[module] = int(args[1].shape[-1])

    handles = []
    for module in model.modules():
        if _has_interface_method(module):
            handles.append(module.register_forward_pre_hook(record))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def uses_float64_grouped_experts(model: nn.Module) -> bool:
    """Return True if stacked experts have float64 weights and an implementation that does not support this dtype.

    Args:
        model: The model.
    """
    for module in model.modules():
        if not _has_interface_method(module):
            continue
        implementation = getattr(module.config, "_experts_implementation", None)
        weight = next(module.parameters())
        if weight.dtype == torch.float64 and implementation not in ("batched_mm", "eager", None):
            return True
    return False


def find_idle_experts(
    model: nn.Module, tree: LayerLocator, matches: Sequence[Match], calls: Sequence[ProjectionCall]
) -> tuple[list[Match], dict[str, str]]:
    """Return the experts in lists that no token of the trace was routed to.

    A module that is in the same list as a matched expert and has the same class is called on its own and traced.

    Args:
        model: The model.
        tree: The model's module tree.
        matches: The FFNs that were found by tracing the model.
        calls: The trace in which they were found.

    Returns:
        The matches of idle experts, and the reasons for unsupported ones by module path.
    """
    call_by_module = {call.module: call for call in calls}
    active_experts: dict[str, Match] = {}
    example_by_list: dict[str, str] = {}  # One active expert in each list.
    for match in matches:
        path = tree.expert_path(match.names.values())
        if path is not None:
            active_experts[path] = match
            example_by_list[parent_path(path)] = path

    idle_matches = []
    unsupported = {}
    for example_path in example_by_list.values():
        example = active_experts[example_path]
        call = call_by_module[example.up.module]
        x = torch.zeros(1, example.hidden, dtype=call.dtype, device=call.device)
        for path in tree.sibling_paths(example_path):
            sibling = model.get_submodule(path)
            if path in active_experts or type(sibling) is not type(model.get_submodule(example_path)):
                continue
            idle_match = match_module(sibling, x, path)
            if idle_match is None:
                unsupported[path] = "no token of the trace was routed to it, and it has no FFN when called on its own"
            else:
                idle_matches.append(idle_match)
    return idle_matches, unsupported


def find_stacked_experts(
    model: nn.Module, matches: Sequence[Match], active_counts: Mapping[nn.Module, int]
) -> tuple[list[StackedExperts], dict[str, str]]:
    """Return the modules that stack experts in one parameter per projection.

    Args:
        model: The model.
        matches: The FFNs whose projections are modules.
        active_counts: Number of active experts per token by module.

    Returns:
        The modules, and the reasons for unsupported ones by module path.
    """
    down_parents = {parent_path(match.names["down"]) for match in matches}
    stacks = []
    unsupported = {}
    for path, module in model.named_modules():
        if not _may_stack_experts(path, module, down_parents):
            continue
        result = _read_stacked_experts(path, module, active_counts.get(module))
        if isinstance(result, str):
            unsupported[path] = result
        else:
            stacks.append(result)
    return stacks, unsupported


def _may_stack_experts(path: str, module: nn.Module, down_parents: Collection[str]) -> bool:
    """Return True if a module's own parameters may be stacked experts, judged by their dimensions and its name.

    Projections, and modules that directly contain a matched down projection, are excluded.
    """
    if path in down_parents or is_projection(module):
        return False
    if not any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
        return False
    return _has_interface_method(module) or "expert" in f"{path} {type(module).__name__}".lower()


def _has_interface_method(module: nn.Module) -> bool:
    """Return True if a module has the method that transformers' experts interface adds to stacked experts."""
    return hasattr(module, "_apply_gate")


def _read_stacked_experts(path: str, module: nn.Module, active_count: int | None) -> StackedExperts | str:
    """Return the experts that a module stacks, or the reason why they are not supported."""
    from sparsedial.moe.stacked_experts import read_expert_shape  # imports transformers

    shape = read_expert_shape(module)
    if isinstance(shape, str):
        return shape
    expert = _match_stacked_expert(path, module, shape)
    if expert is None:
        return f"the function of {type(module).__name__} between its projections is not an FFN's activation"
    active_fraction = None if active_count is None else active_count / shape.experts
    return StackedExperts(path, module, expert, shape, active_fraction)


def _match_stacked_expert(path: str, module: nn.Module, shape: ExpertShape) -> Match | None:
    """Return the FFN that each expert of a module computes, or None if it is not an FFN of the given shape."""
    from sparsedial.moe.stacked_experts import ExpertStandIn

    probe = ExpertStandIn(module, shape.width)
    x = probe.up.weight.new_tensor([[2.0, -3.0], [-1.0, 4.0]])
    match = match_module(probe, x)
    if match is None or match.width != shape.width:
        return None
    is_gated = match.gate is not None
    if is_gated != module.has_gate or (is_gated and not match.intermediate_is_product):
        return None
    if not is_gated:
        return replace(match, names={"up": f"{path}.up_proj", "down": f"{path}.down_proj"})
    fused = f"{path}.gate_up_proj"
    return replace(match, names={"up": fused, "down": f"{path}.down_proj", "gate": fused})
