"""The vectors outside of the FFNs, found in the data flow of one forward pass.

The hidden state is a vector that an embedding or another layer reaches without a projection of the same layer between.
From the operands of an attention, projections are followed backwards until they read a hidden state. In an attention
with low-rank projections, these are the ones that compress the hidden state, not those that expand the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from operator import attrgetter

import torch
from torch import nn

from sparsedial.ffn.data_flow_trace import DataFlow, FlowCall
from sparsedial.ffn.feed_forward import FFN
from sparsedial.ffn.layer_locator import LayerLocator, common_path, number_layers
from sparsedial.ffn.projection_input import (
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    LM_HEAD_INPUT,
    OuterVectors,
    ProjectionInput,
)
from sparsedial.ffn.projections import in_features, out_features

NO_ATTENTION = "no product of softmax-normalised scores and values was computed in the forward pass"
NO_INPUT_PROJECTION = "queries, keys or values are not computed by projections that are modules"
NO_OUTPUT_PROJECTION = "no projection that is a module reads the output of an attention"
NO_OUTPUT_LAYER = "the logits are not the output of a projection that is a module"
OTHER_VECTORS = "a projection also reads vectors that belong to no token, such as relative positions"


CallsByModule = dict[nn.Module, FlowCall]
"""The first call of each projection that reads a vector, in the order of the calls."""


class AttentionMatcher:
    """Finds the vectors outside of the FFNs in the data flow of one forward pass.

    Args:
        tree: The model's module tree.
        paths: Path of every module.
        flow: The data flow.
        ffns: The FFNs of the model, whose projections belong to no other vector.
    """

    def __init__(self, tree: LayerLocator, paths: Mapping[nn.Module, str], flow: DataFlow, ffns: Sequence[FFN]) -> None:
        self._tree = tree
        self._paths = paths
        self._flow = flow
        self._ffn_paths: set[str] = set()
        self._ffn_layers: dict[str, int] = {}
        for ffn in ffns:
            self._ffn_paths.update(ffn.names.values())
            self._ffn_layers[tree.layer_path(ffn.names.values())] = ffn.layer
        self._calls: dict[nn.Module, list[FlowCall]] = defaultdict(list)
        for call in flow.calls:
            self._calls[call.module].append(call)
        self._layer_paths = {module: self._layer_path([paths[module]]) for module in self._calls}

    def match(self, token_shape: Sequence[int]) -> OuterVectors:
        """Return the vectors outside of the FFNs.

        Args:
            token_shape: Shape of the token IDs of the trace, [batch, tokens]. Empty if it is unknown.

        Returns:
            The vectors, and the reasons why sites are missing.
        """
        outputs = self._find_output_calls()
        calls_by_site = {
            ATTENTION_INPUT: self._find_input_calls(outputs),
            ATTENTION_OUTPUT: outputs,
            LM_HEAD_INPUT: self._find_output_layer_calls(),
        }
        vectors: list[ProjectionInput] = []
        missing = {}
        for site, calls in calls_by_site.items():
            reason = self._find_missing_reason(site, calls)
            if reason is None:
                vectors += self._build_vectors(site, _group_calls(calls), token_shape)
            else:
                missing[site] = reason
        return OuterVectors(tuple(vectors), missing)

    def _find_output_calls(self) -> list[FlowCall]:
        """Return the calls that read the output of an attention before it is added to the hidden state."""
        return [call for call in self._flow.calls if call.flow.attentions and not self._reads_hidden_state(call)]

    def _find_input_calls(self, outputs: Sequence[FlowCall]) -> list[FlowCall]:
        """Return the calls that read the hidden state for an attention, or for the gate of its output."""
        sources: set[nn.Module] = set()
        for attention in self._flow.attentions:
            sources |= attention.sources
        for call in outputs:
            sources |= call.flow.projections
        visited: set[nn.Module] = set()
        hidden_state_calls: set[FlowCall] = set()
        while sources:
            module = sources.pop()
            if module in visited or self._paths[module] in self._ffn_paths:
                continue
            visited.add(module)
            for call in self._calls[module]:
                if self._reads_hidden_state(call):
                    hidden_state_calls.add(call)
                elif not call.flow.attentions:
                    sources |= call.flow.projections
        return self._leave_out_encoder_outputs(list(filter(hidden_state_calls.__contains__, self._flow.calls)))

    def _leave_out_encoder_outputs(self, calls: Sequence[FlowCall]) -> list[FlowCall]:
        """Return the calls without those that read the same tensor in several layers."""
        layers: dict[int, set[str]] = defaultdict(set)
        for call in calls:
            layers[id(call.tensor)].add(self._layer_paths[call.module])
        return [call for call in calls if len(layers[id(call.tensor)]) == 1]

    def _find_output_layer_calls(self) -> list[FlowCall]:
        logits = self._flow.logits
        if logits.has_embedding or logits.attentions:
            return []
        calls = []
        for call in self._flow.calls:
            if call.module in logits.projections and out_features(call.module) == self._flow.logit_width:
                calls.append(call)
        return calls

    def _find_missing_reason(self, site: str, calls: Sequence[FlowCall]) -> str | None:
        """Return why the model does not have a site, or None if it has it."""
        if calls and site != ATTENTION_INPUT:
            return None
        if site == LM_HEAD_INPUT:
            return NO_OUTPUT_LAYER
        if self._flow.has_mixed_hidden_states and not self._flow.attentions:
            return NO_INPUT_PROJECTION
        if not self._flow.attentions:
            return NO_ATTENTION
        if site == ATTENTION_OUTPUT:
            return NO_OUTPUT_PROJECTION
        if not calls or not all(map(attrgetter("is_complete"), self._flow.attentions)):
            return NO_INPUT_PROJECTION
        for call in calls:
            if not all(map(attrgetter("flow.is_activation"), self._calls[call.module])):
                return OTHER_VECTORS
        return None

    def _reads_hidden_state(self, call: FlowCall) -> bool:
        """Return True if an embedding or a projection of another layer reaches the vector that a projection reads."""
        layers = set(map(self._layer_paths.__getitem__, call.flow.projections))
        return call.flow.has_embedding or not layers <= {self._layer_paths[call.module]}

    def _build_vectors(
        self, site: str, groups: Sequence[CallsByModule], token_shape: Sequence[int]
    ) -> list[ProjectionInput]:
        group_paths = [list(map(self._paths.__getitem__, group)) for group in groups]
        layer_paths = list(map(self._layer_path, group_paths))
        layers = self._number_layers(site, layer_paths)
        vectors: dict[str, ProjectionInput] = {}
        for group, paths, layer_path in zip(groups, group_paths, layer_paths, strict=True):
            name = common_path(paths) if len(paths) > 1 else paths[0]
            if not name or name in vectors:
                name = paths[0]
            first = next(iter(group.values()))
            vectors[name] = ProjectionInput(
                layer=layers[layer_path],
                name=name,
                vector=site,
                projections=tuple(group),
                names=_name_projections(paths),
                width=in_features(first.module),
                is_time_major=_is_time_major(first.tensor.shape[:-1], token_shape),
            )
        return sorted(vectors.values(), key=lambda vector: vector.layer)

    def _layer_path(self, paths: Collection[str]) -> str:
        """Return the path of the layer that contains projections: that of an FFN if one contains them."""
        for layer_path in self._ffn_layers:
            if layer_path and common_path(paths).startswith(f"{layer_path}."):
                return layer_path
        return self._tree.layer_path(paths)

    def _number_layers(self, site: str, paths: Sequence[str]) -> dict[str, int]:
        """Return the index of each layer, which is that of its FFN if it has one."""
        following = max(self._ffn_layers.values(), default=-1) + 1
        if site == LM_HEAD_INPUT:
            return dict.fromkeys(paths, following)
        numbers = number_layers(paths)
        if {**numbers, **self._ffn_layers}.items() >= numbers.items():
            return numbers
        unknown = list(filter(lambda path: path not in self._ffn_layers, numbers))
        return {**dict(zip(unknown, count(following))), **self._ffn_layers}


def _group_calls(calls: Sequence[FlowCall]) -> list[CallsByModule]:
    """Return the projections that read the same tensor, each in one group.

    A projection that is called again, as in layers that share weights, stays in the group of its first call.
    """
    groups: list[CallsByModule] = []
    tensor_groups: dict[int, CallsByModule] = {}
    module_groups: dict[nn.Module, CallsByModule] = {}
    for call in calls:
        group = module_groups.get(call.module, tensor_groups.get(id(call.tensor)))
        if group is None:
            group = {}
            groups.append(group)
        tensor_groups[id(call.tensor)] = group
        module_groups[call.module] = group
        group.setdefault(call.module, call)
    return groups


def _name_projections(paths: Sequence[str]) -> dict[str, str]:
    """Return the paths of projections by their paths in the module that contains all of them."""
    prefix = common_path(paths)
    return {path.removeprefix(f"{prefix}."): path for path in paths}


def _is_time_major(shape: torch.Size, token_shape: Sequence[int]) -> bool:
    time_major = tuple(reversed(token_shape))
    return len(token_shape) == 2 and time_major != tuple(token_shape) and tuple(shape) == time_major
