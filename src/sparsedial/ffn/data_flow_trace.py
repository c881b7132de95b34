"""Trace of one forward pass: from which projections and attentions each tensor was computed.

The names and classes of modules are not used. In contrast to an `Expression`, the flow of a tensor passes through all
operations. It ends at projections: the output of a projection was computed from that projection alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sparsedial.ffn.projections import named_projections
from sparsedial.ffn.traced_operation import Operation, remove_vmap, tensors_in
from sparsedial.hook_arguments import first_argument

PRODUCTS = frozenset({"_grouped_mm", "addmm", "baddbmm", "bmm", "einsum", "linear", "matmul", "mm"})
NORMALISATIONS = frozenset({"_safe_softmax", "_softmax", "exp", "softmax"})
"""Operations that turn attention scores into the weights of an attention. Some models divide the sum themselves."""
FUSED_ATTENTION_NAMES = ("attention", "flash_attn")
EMBEDDINGS = frozenset({"embedding", "_embedding_bag"})
CONSTANTS = frozenset(
    {
        "empty_like",
        "full_like",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "zeros_like",
    }
)
"""Operations whose result has only the shape and the dtype of their argument."""
FUSED_OPERANDS = 3  # query, key and value


@dataclass(frozen=True)
class Flow:
    """Projections, attentions and embeddings from which a tensor was computed.

    Attributes:
        projections: Projections whose output reaches the tensor without another projection or an attention between.
        attentions: Indices of the attentions whose output reaches it in the same way.
        has_embedding: True if the embedding of a token reaches it in the same way. This is the case for hidden states
            to which the layers of a model add their outputs.
        has_token_ids: True for integers that were computed from the token IDs.
        is_scores: True for products of two activations, such as those of queries and keys.
        is_weights: True for normalised scores.
        has_hidden_operand: True for scores if one of the two activations is a hidden state, or was computed from one
            without a projection.
    """

    projections: frozenset[nn.Module] = frozenset()
    attentions: frozenset[int] = frozenset()
    has_embedding: bool = False
    has_token_ids: bool = False
    is_scores: bool = False
    is_weights: bool = False
    has_hidden_operand: bool = False

    @property
    def is_activation(self) -> bool:
        """True if the tensor depends on the tokens."""
        return bool(self.projections or self.attentions or self.has_embedding)


NO_FLOW = Flow()


@dataclass(frozen=True, eq=False)
class FlowCall:
    """One call of a projection.

    Attributes:
        module: The projection.
        tensor: The tensor that it reads. Calls that read the same tensor have the same object.
        flow: What the tensor was computed from.
    """

    module: nn.Module
    tensor: torch.Tensor
    flow: Flow


@dataclass(frozen=True)
class Attention:
    """One attention: the product of normalised scores and values.

    Attributes:
        sources: Projections from whose outputs the queries, keys and values were computed.
        is_complete: True if all of them were computed by projections.
    """

    sources: frozenset[nn.Module]
    is_complete: bool


@dataclass(eq=False)
class DataFlow:
    """Result of the trace.

    Attributes:
        calls: Calls of projections, in order.
        attentions: The attentions, in order.
        logits: What the logits of the model were computed from.
        logit_width: Number of logits of one token. 0 if there are none.
        has_mixed_hidden_states: True if normalised scores were multiplied by hidden states.
        read_parameters: Parameters that an operation other than an embedding has read, by their ids.
    """

    calls: list[FlowCall]
    attentions: list[Attention]
    logits: Flow
    logit_width: int
    has_mixed_hidden_states: bool
    read_parameters: Mapping[int, torch.Tensor]


class DataFlowTracker(TorchDispatchMode):
    """Dispatch mode that records the flow of the result of every PyTorch operation.

    Args:
        model: The model that is run inside `observe`.
        inputs: Keyword arguments of its forward. Integers are token IDs, and vectors take the place of embeddings.

    Attributes:
        result: What was recorded so far.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self._read: dict[int, torch.Tensor] = {}
        self.result = DataFlow([], [], NO_FLOW, 0, False, self._read)
        self._model = model
        self._parameters = set(map(id, model.parameters()))
        self._flows = WeakTensorKeyDictionary()
        for tensor in tensors_in(dict(inputs)):
            if not tensor.is_floating_point():
                self._flows[tensor] = Flow(has_token_ids=True)
            elif tensor.dim() > 2:
                self._flows[tensor] = Flow(has_embedding=True)

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Record the operations and the calls of projections inside the `with` block.

        Yields:
            None: Nothing.
        """
        handles = [self._model.register_forward_hook(self._record_logits)]
        try:
            for _, module in named_projections(self._model):
                handles.append(module.register_forward_pre_hook(self._record_call, with_kwargs=True))
                handles.append(module.register_forward_hook(self._record_output))
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operation = Operation(func, args, kwargs or {})
        output = func(*operation.args, **operation.kwargs)
        flow = self._find_result_flow(operation)
        for result in tensors_in(output):
            self._record_flow(result, flow, operation)
        return output

    def _find_result_flow(self, operation: Operation) -> Flow:
        """Return what the result of an operation was computed from."""
        name = operation.name.removesuffix("_")
        if name in CONSTANTS:
            return NO_FLOW
        if name in EMBEDDINGS:
            return Flow(has_embedding=_unite(list(map(self._find_flow, operation.tensors))).has_token_ids)
        flows = []
        for tensor in operation.tensors:
            if id(tensor) in self._parameters:
                self._read[id(tensor)] = tensor
            flows.append(self._find_flow(tensor))
        is_attention = any(map(name.__contains__, FUSED_ATTENTION_NAMES)) and len(flows) >= FUSED_OPERANDS
        if is_attention:
            query, key, value = flows[:FUSED_OPERANDS]
            return self._add_attention(self._multiply([query, key]), value)
        if name in PRODUCTS:
            return self._multiply(flows)
        union = _unite(flows)
        if name in NORMALISATIONS and union.is_scores:
            return replace(union, is_weights=True)
        return union

    def _multiply(self, flows: Sequence[Flow]) -> Flow:
        """Return the flow of a matrix product."""
        activations = list(filter(attrgetter("is_activation"), flows))
        if len(activations) != 2:
            return replace(_unite(flows), is_scores=False, is_weights=False, has_hidden_operand=False)
        for weights, values in (activations, activations[::-1]):
            if weights.is_weights:
                return self._add_attention(weights, values)
        union = _unite(flows)
        return replace(union, is_scores=True, has_hidden_operand=union.has_embedding)

    def _add_attention(self, weights: Flow, values: Flow) -> Flow:
        """Record an attention. A weighted sum of the hidden states of several layers is not one."""
        if values.has_embedding:
            self.result.has_mixed_hidden_states = True
            return replace(_unite([weights, values]), is_scores=False, is_weights=False, has_hidden_operand=False)
        sources = weights.projections | values.projections
        self.result.attentions.append(Attention(sources, is_complete=not weights.has_hidden_operand))
        return Flow(attentions=frozenset([len(self.result.attentions) - 1]))

    def _find_flow(self, tensor: torch.Tensor) -> Flow:
        flow: Flow = self._flows.get(tensor, NO_FLOW)
        return flow

    def _record_flow(self, result: torch.Tensor, flow: Flow, operation: Operation) -> None:
        """Record the flow of a result. A tensor that was written to keeps its earlier flow as well."""
        if result.is_floating_point() or result.is_complex():
            flow = replace(flow, has_token_ids=False)
        else:
            flow = Flow(has_token_ids=flow.has_token_ids)  # indices and masks choose values, but are no values
        if flow == NO_FLOW:
            return
        if operation.is_mutating:
            flow = _unite([self._find_flow(result), flow])
            if result._base is not None:
                self._flows[result._base] = _unite([self._find_flow(result._base), flow])
        self._flows[result] = flow

    def _record_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first_argument(args, kwargs)
        if isinstance(x, torch.Tensor):
            x = remove_vmap(x)
            self.result.calls.append(FlowCall(module, x, self._find_flow(x)))

    def _record_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for tensor in tensors_in(output):
            self._flows[remove_vmap(tensor)] = Flow(frozenset([module]))

    def _record_logits(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is None:
            logits = next(iter(tensors_in(output)), None)
        if isinstance(logits, torch.Tensor) and logits.dim() > 0:
            self.result.logits = self._find_flow(logits)
            self.result.logit_width = logits.shape[-1]


def _unite(flows: Sequence[Flow]) -> Flow:
    """Return the flow of a tensor that was computed from tensors with these flows."""
    united = NO_FLOW
    for flow in flows:
        if flow not in (NO_FLOW, united):
            united = _unite_two(united, flow)
    return united


def _unite_two(first: Flow, second: Flow) -> Flow:
    return Flow(
        first.projections | second.projections,
        first.attentions | second.attentions,
        first.has_embedding or second.has_embedding,
        first.has_token_ids or second.has_token_ids,
        first.is_scores or second.is_scores,
        first.is_weights or second.is_weights,
        first.has_hidden_operand or second.has_hidden_operand,
    )
