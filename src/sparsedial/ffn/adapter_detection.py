"""Bottleneck adapters: small networks that were added to a layer, and that compute what an FFN computes.

An adapter is ``x + up(act(down(x)))`` with few entries in between, put behind or beside the FFN of a layer. Its
projections match those of a plain FFN. It is recognised by its place and its width: it is narrower than its own input,
and another FFN of the same layer is wider. The experts of a mixture of experts can be as narrow, beside a wider shared
expert. Therefore, nothing is taken for an adapter in a layer that routes tokens to experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

from sparsedial.ffn.adapters import Adapter
from sparsedial.ffn.elementwise_trace import ProjectionCall
from sparsedial.ffn.ffn_building import find_expert_positions
from sparsedial.ffn.layer_locator import LayerLocator
from sparsedial.ffn.trace_matching import Match
from sparsedial.ffn.untraced_experts import StackedExperts


def separate_adapters(
    model: nn.Module,
    tree: LayerLocator,
    matches: Sequence[Match],
    stacks: Sequence[StackedExperts],
    calls: Sequence[ProjectionCall],
) -> tuple[list[Match], list[Adapter]]:
    """Return the FFNs that are no adapters, and the adapters.

    Args:
        model: The model.
        tree: The model's module tree.
        matches: FFNs whose projections are modules.
        stacks: Modules that stack experts.
        calls: The trace in which they were found.

    Returns:
        The remaining matches in order, and the adapters in order.
    """
    matches_by_layer: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        matches_by_layer[tree.layer_path(match.names.values())].append(match)
    layers_with_experts = set()
    for stack in stacks:
        layers_with_experts.add(tree.layer_path(stack.expert.names.values()))
    for match, position in find_expert_positions(tree, matches, calls).items():
        layer = tree.layer_path(match.names.values())
        if _has_router(model, layer, position.moe_path):
            layers_with_experts.add(layer)

    adapters: dict[Match, Adapter] = {}
    for layer, members in matches_by_layer.items():
        if layer == "" or layer in layers_with_experts:
            continue  # Without a layer, nothing says that the FFNs belong together.
        widest = max(members, key=lambda match: match.width)
        for match in members:
            if match.width < min(match.hidden, widest.width):
                name = match.names["down"] if match.path == layer else match.path
                adapters[match] = Adapter(name, match.names, match.hidden, match.width, widest.path)
    return [match for match in matches if match not in adapters], list(adapters.values())


def leave_out_idle_adapters(
    unsupported: Mapping[str, str], tree: LayerLocator, adapters: Sequence[Adapter]
) -> dict[str, str]:
    """Return the unsupported members of lists, without those that are in the same list as an adapter.

    Args:
        unsupported: Reasons by the path of the member.
        tree: The model's module tree.
        adapters: The adapters that were found.

    Returns:
        The remaining entries.
    """
    remaining = dict(unsupported)
    for adapter in adapters:
        member = tree.expert_path(adapter.names.values())
        if member is not None:
            for sibling in tree.sibling_paths(member):
                remaining.pop(sibling, None)
    return remaining


def _has_router(model: nn.Module, layer_path: str, list_path: str) -> bool:
    """Return True if a matrix outside a list may compute one score per member, and maybe one for "no member"."""
    members = len(list(model.get_submodule(list_path).children()))
    for name, parameter in model.get_submodule(layer_path).named_parameters(prefix=layer_path):
        is_outside = not name.startswith(f"{list_path}.")
        if is_outside and parameter.dim() == 2 and {members, members + 1} & set(parameter.shape):
            return True
    return False
