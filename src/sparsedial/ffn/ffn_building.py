"""Assignment of layers and experts to matches, and construction of the FFN records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from sparsedial.ffn.elementwise_trace import ProjectionCall
from sparsedial.ffn.feed_forward import FFN
from sparsedial.ffn.layer_locator import LayerLocator, number_layers, parent_path
from sparsedial.ffn.trace_matching import Match
from sparsedial.ffn.untraced_experts import StackedExperts


class ExpertPosition(NamedTuple):
    """The position of an expert in its mixture-of-experts layer.

    Attributes:
        expert: Index of the expert.
        moe_path: Path of the module that contains all experts of the layer.
    """

    expert: int
    moe_path: str


def build_ffns(
    tree: LayerLocator,
    matches: Sequence[Match],
    stacks: Sequence[StackedExperts] = (),
    calls: Sequence[ProjectionCall] = (),
    token_shape: Sequence[int] = (),
) -> list[FFN]:
    """Return the FFNs of a model with their layers, experts and names.

    Args:
        tree: The model's module tree.
        matches: FFNs whose projections are modules.
        stacks: Modules that stack experts.
        calls: The trace in which the matches were found (default: none, for modules named by the user).
        token_shape: Shape of the token IDs of the trace, [batch, tokens] (default: unknown).

    Returns:
        The FFNs, ordered by layer and expert.
    """
    path_counts: Counter[str] = Counter()
    all_matches = list(matches)
    for match in matches:
        path_counts[match.path] += 1
    for stack in stacks:
        path_counts.update(stack.expert_paths)
        all_matches.append(stack.expert)
    layers = assign_layers(tree, all_matches)
    positions = find_expert_positions(tree, matches, calls)
    time_major_modules = _find_time_major_modules(calls, token_shape)

    ffns = []
    for match in matches:
        is_unique = match.path != "" and path_counts[match.path] == 1
        name = match.path if is_unique else match.names["down"]
        ffn = _build_ffn(match, name, layers[match], positions.get(match))
        ffns.append(replace(ffn, is_time_major=match.up.module in time_major_modules))
    for stack in stacks:
        for index, path in enumerate(stack.expert_paths):
            name = path if path_counts[path] == 1 else stack.expert.names["down"]
            ffns.append(_build_stacked_ffn(stack, name, layers[stack.expert], index))
    return sorted(ffns, key=_layer_and_expert)


def assign_layers(tree: LayerLocator, matches: Sequence[Match]) -> dict[Match, int]:
    """Return the index of the layer of every match.

    Args:
        tree: The model's module tree.
        matches: All matches of the model, in order.

    Returns:
        Layer indices by match.
    """
    layer_paths = {}
    for match in matches:
        layer_paths[match] = tree.layer_path(match.names.values())
    indices = number_layers(layer_paths.values())
    return {match: indices[path] for match, path in layer_paths.items()}


def find_expert_positions(
    tree: LayerLocator, matches: Sequence[Match], calls: Sequence[ProjectionCall]
) -> dict[Match, ExpertPosition]:
    """Return the position of every match that is an expert in a list.

    FFNs in a list that run one after another are not experts, because each of them reads a different input. Experts
    read the same input, read rows gathered from one input, or are idle.

    Args:
        tree: The model's module tree.
        matches: FFNs whose projections are modules.
        calls: The trace in which the matches were found.

    Returns:
        Positions by match. Matches that are not experts are not included.
    """
    call_by_module = {call.module: call for call in calls}
    members_by_list: dict[str, dict[str, Match]] = defaultdict(dict)
    for match in matches:
        path = tree.expert_path(match.names.values())
        if path is not None:
            members_by_list[parent_path(path)][path] = match

    positions = {}
    for list_path, members in members_by_list.items():
        if _are_experts(members.values(), call_by_module):
            sibling_paths = tree.sibling_paths(next(iter(members)))
            for path, match in members.items():
                positions[match] = ExpertPosition(sibling_paths.index(path), list_path)
    return positions


def _find_time_major_modules(calls: Sequence[ProjectionCall], token_shape: Sequence[int]) -> set[nn.Module]:
    """Return the projections that read tokens in the order [tokens, batch]."""
    time_major_shape = tuple(reversed(token_shape))
    if len(token_shape) != 2 or time_major_shape == tuple(token_shape):
        return set()
    return {call.module for call in calls if tuple(call.shape) == time_major_shape}


def _are_experts(members: Collection[Match], call_by_module: Mapping[nn.Module, ProjectionCall]) -> bool:
    """Return True if members of a list read gathered rows, share an input, or were not called in the trace."""
    input_ids = set()
    for member in members:
        call = call_by_module.get(member.up.module)
        if call is None:
            continue
        if call.rows_gathered:
            return True
        input_ids.add(call.input_id)
    return len(input_ids) < len(members)


def _build_ffn(match: Match, name: str, layer: int, position: ExpertPosition | None) -> FFN:
    return FFN(
        layer=layer,
        name=name,
        up=match.up,
        gate=match.gate,
        down=match.down,
        names=match.names,
        hidden=match.hidden,
        width=match.width,
        up_value=match.up_value,
        gate_value=match.gate_value,
        intermediate_is_product=match.intermediate_is_product,
        expert=None if position is None else position.expert,
        active_fraction=1.0 if position is None else None,
        moe_path=None if position is None else position.moe_path,
    )


def _build_stacked_ffn(stack: StackedExperts, name: str, layer: int, index: int) -> FFN:
    expert = stack.expert
    return FFN(
        layer=layer,
        name=name,
        up=expert.up,
        gate=expert.gate,
        down=stack.module,
        names=expert.names,
        hidden=stack.shape.hidden,
        width=stack.shape.width,
        up_value=expert.up_value,
        gate_value=expert.gate_value,
        intermediate_is_product=expert.intermediate_is_product,
        expert=index,
        active_fraction=stack.active_fraction,
        moe_path=stack.path,
        stacked_module=stack.module,
    )


def _layer_and_expert(ffn: FFN) -> tuple[int, int]:
    expert = -1 if ffn.expert is None else ffn.expert
    return ffn.layer, expert
