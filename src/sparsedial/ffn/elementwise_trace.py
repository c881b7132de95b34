"""Trace of one forward pass: which projection reads an elementwise function of other projections' outputs.

The names and classes of modules are not used. A tensor that is computed from projection outputs by elementwise
operations only is described by an `Expression`. The result of any other operation, such as attention, normalisation or
a convolution, has no expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from sparsedial.ffn.expression import Expression, OutputSlice, expressions_in
from sparsedial.ffn.projections import named_projections
from sparsedial.ffn.traced_operation import (
    COPY_OPERATIONS,
    GATHER_OPERATIONS,
    JOIN_OPERATIONS,
    Operation,
    compute_glu,
    is_in_vmap,
    remove_vmap,
    storage_address,
    tensors_in,
)
from sparsedial.hook_arguments import first_argument
from sparsedial.tracing_state import tracing


@dataclass(frozen=True, eq=False)
class ProjectionCall:
    """One call of a projection in a traced forward pass.

    Attributes:
        module: The projection.
        input_id: Identifier of the input tensor. Calls that read the same tensor have the same identifier.
        expression: The input tensor as an elementwise function of other projections' outputs. None if it is not such
            a function.
        rows_gathered: True if the rows of the input tensor were gathered from another tensor, as a router does to
            select the tokens of an expert.
        dtype: Dtype of the input tensor.
        device: Device of the input tensor.
        activated: True if a nonlinear operation reads the projection's own output.
        enclosing_operator: Name of the higher-order operator, such as ``cond`` or ``vmap``, whose function made the
            call. None for a call in plain code.
        shape: Shape of the tensor without its last dimension. Empty if it is unknown.
    """

    module: nn.Module
    input_id: int
    expression: Expression | None
    rows_gathered: bool
    dtype: torch.dtype
    device: torch.device
    activated: bool = False
    enclosing_operator: str | None = None
    shape: torch.Size = torch.Size()  # noqa: RUF009  # immutable


def trace_projections(model: nn.Module, inputs: dict[str, Any], *args: Any) -> list[ProjectionCall]:
    """Run ``model(*args, **inputs)`` once and return the calls of its projections.

    The forward pass runs as in `run_forward`. After it, even if it fails, the hooks are removed.

    Args:
        model: The module to run.
        inputs: Keyword arguments of its forward.
        *args: Positional arguments of its forward.

    Returns:
        One entry per call of a projection, in the order of the calls.
    """
    tracker = _ExpressionTracker([*model.parameters(), *model.buffers()])
    handles = []
    try:
        for _, module in named_projections(model):
            handles.append(module.register_forward_pre_hook(tracker.record_call, with_kwargs=True))
            handles.append(module.register_forward_hook(tracker.record_output))
        # Compiled code bypasses dispatch modes, so it has to run eagerly.
        with torch.compiler.set_stance("force_eager"), tracker:
            run_forward(model, inputs, *args)
    finally:
        for handle in handles:
            handle.remove()
    return [replace(call, activated=call.module in tracker.activated_modules) for call in tracker.calls]


def run_forward(model: nn.Module, inputs: dict[str, Any], *args: Any) -> None:
    """Run ``model(*args, **inputs)`` in evaluation mode, without gradients and without the rules of sparsifiers.

    After the forward pass, even if it fails, the training mode of every module is restored. Parameters are not
    modified.

    Args:
        model: The module to run.
        inputs: Keyword arguments of its forward.
        *args: Positional arguments of its forward.
    """
    training_modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with tracing(), torch.no_grad():
            model(*args, **inputs)
    finally:
        for module in training_modules:
            module.training = True


@dataclass(eq=False)
class _TensorProperties:
    """Properties of one tensor that the tracker has recorded."""

    tensor: torch.Tensor  # The reference keeps the tensor alive, so that its id is not reused.
    expression: Expression | None = None
    is_constant: bool = False  # True for parameters, buffers, and tensors computed only from these.
    rows_gathered: bool = False


class _ExpressionTracker(TorchDispatchMode):
    """Dispatch mode that records the expression of the result of every PyTorch operation.

    Args:
        constants: The parameters and buffers of the model.

    Attributes:
        calls: Calls of projections so far.
        activated_modules: Projections whose output a nonlinear operation has read.
    """

    supports_higher_order_operators = True

    def __init__(self, constants: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.calls: list[ProjectionCall] = []
        self.activated_modules: set[nn.Module] = set()
        self._properties: dict[int, _TensorProperties] = {}  # The keys are tensor ids.
        # Storage address -> (output, projection). A tensor in this storage is a view of the output.
        self._outputs: dict[int, tuple[torch.Tensor, nn.Module]] = {}
        self._higher_order_operator: str | None = None  # The one that is being run.
        for tensor in constants:
            self._get_or_create_properties(tensor).is_constant = True

    def record_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the tensor that a projection reads. This method is a forward pre-hook."""
        x = first_argument(args, kwargs)
        if not isinstance(x, torch.Tensor):
            return
        enclosing_operator = "vmap" if is_in_vmap() else self._higher_order_operator
        x = remove_vmap(x)
        properties = self._get_or_create_properties(x)
        self.calls.append(
            ProjectionCall(
                module,
                id(x),
                properties.expression,
                properties.rows_gathered,
                x.dtype,
                x.device,
                enclosing_operator=enclosing_operator,
                shape=x.shape[:-1],
            )
        )

    def record_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Record the output of a projection as a leaf expression. This method is a forward hook."""
        if isinstance(output, torch.Tensor):
            output = remove_vmap(output)
            self._outputs[storage_address(output)] = (output, module)
            self._record_leaf(output, OutputSlice(module, 0, 1, output.shape[-1]))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.glu.default:  # Its two halves are not elementwise, but the equivalent below is.
            with self:
                return compute_glu(*args, **(kwargs or {}))
        operation = Operation(func, args, kwargs or {})
        if operation.is_higher_order:
            output = self._run_higher_order(operation)
        else:
            output = func(*operation.args, **operation.kwargs)
        results = tensors_in(output)
        self._record_gathered_rows(operation, results)
        self._record_results(operation, results)
        return output

    def _run_higher_order(self, operation: Operation) -> Any:
        """Run an operator that calls functions, such as the branches of `torch.cond`, and trace these functions."""
        outer_operator = self._higher_order_operator
        self._higher_order_operator = operation.name
        try:
            return operation.run_functions_in(self)
        finally:
            self._higher_order_operator = outer_operator

    def _get_or_create_properties(self, tensor: torch.Tensor) -> _TensorProperties:
        """Return the recorded properties of a tensor, for reading and changing them. Create them if there are none."""
        return self._properties.setdefault(id(tensor), _TensorProperties(tensor))

    def _get_expression(self, tensor: torch.Tensor) -> Expression | None:
        properties = self._properties.get(id(tensor))
        return None if properties is None else properties.expression

    def _has_gathered_rows(self, tensor: torch.Tensor) -> bool:
        properties = self._properties.get(id(tensor))
        return properties is not None and properties.rows_gathered

    def _is_constant(self, tensor: torch.Tensor) -> bool:
        properties = self._properties.get(id(tensor))
        return properties is not None and properties.is_constant

    def _can_be_operand(self, tensor: torch.Tensor) -> bool:
        """Return True for expressions, constants, scalars, and tensors of one number per token."""
        if self._get_expression(tensor) is not None or self._is_constant(tensor):
            return True
        return tensor.numel() == 1 or tensor.shape[-1] == 1

    def _record_gathered_rows(self, operation: Operation, results: list[torch.Tensor]) -> None:
        gathers = operation.name in GATHER_OPERATIONS
        if not gathers and operation.name in COPY_OPERATIONS | JOIN_OPERATIONS:
            gathers = any(map(self._has_gathered_rows, operation.tensors))
        if gathers:
            for result in results:
                self._get_or_create_properties(result).rows_gathered = True

    def _record_results(self, operation: Operation, results: list[torch.Tensor]) -> None:
        """Record the expressions of an operation's results, depending on the kind of the operation."""
        if operation.is_view(results):
            for result in results:
                self._record_view(operation.tensors[0], result)
        elif not any(map(self._get_expression, operation.tensors)):
            self._record_constants(operation, results)
        elif operation.name == "native_dropout" and self._get_expression(operation.tensors[0]) is not None:
            self._get_or_create_properties(results[0]).expression = self._get_expression(operation.tensors[0])
        elif operation.is_elementwise and all(map(self._can_be_operand, operation.tensors)):
            if len(results) == 1:
                self._record_operation(operation, results[0])
        elif operation.is_mutating:
            self._get_or_create_properties(operation.tensors[0]).expression = None

    def _record_constants(self, operation: Operation, results: list[torch.Tensor]) -> None:
        """Record results that are computed from parameters and buffers alone."""
        if operation.tensors and all(map(self._is_constant, operation.tensors)):
            for result in results:
                self._get_or_create_properties(result).is_constant = True

    def _record_operation(self, operation: Operation, result: torch.Tensor) -> None:
        """Record the result of an elementwise operation over expressions and constants."""

        def lift(argument: Any) -> Any:
            expression = self._get_expression(argument) if isinstance(argument, torch.Tensor) else None
            return argument if expression is None else expression

        args = tree_map(lift, operation.args)
        kwargs = tree_map(lift, operation.kwargs)
        parts: frozenset[OutputSlice] = frozenset()
        is_nonlinear = operation.is_nonlinear
        for operand in expressions_in((args, kwargs)):
            parts |= operand.parts
            is_nonlinear |= operand.is_nonlinear
        if operation.is_nonlinear:
            for part in parts:
                self.activated_modules.add(part.module)
        self._get_or_create_properties(result).expression = Expression(
            result.detach().clone(),
            func=operation.func,
            args=args,
            kwargs=kwargs,
            parts=parts,
            is_nonlinear=is_nonlinear,
            is_mutating=operation.is_mutating,
        )

    def _record_view(self, source: torch.Tensor, view: torch.Tensor) -> None:
        """Record a view of a tensor, if it keeps whole vectors or is a slice of a projection's output."""
        if self._has_gathered_rows(source):
            self._get_or_create_properties(view).rows_gathered = True
        if self._is_constant(source):
            self._get_or_create_properties(view).is_constant = True
        expression = self._get_expression(source)
        if expression is not None and _has_same_vectors(source, view):
            self._get_or_create_properties(view).expression = expression
        elif (part := self._output_slice(view)) is not None:
            self._record_leaf(view, part)

    def _output_slice(self, view: torch.Tensor) -> OutputSlice | None:
        """Return the slice of a projection's output that a view covers, or None. The strides of the view show it."""
        output, module = self._outputs.get(storage_address(view), (None, None))
        if output is None or module is None or view.dim() == 0 or not output.is_contiguous():
            return None
        output_width = output.shape[-1]
        width = view.shape[-1]
        step = int(view.stride(-1))
        start = int(view.storage_offset() - output.storage_offset()) % output_width
        is_inside_one_vector = step > 0 and start + step * (width - 1) < output_width
        has_all_tokens = view.numel() * output_width == output.numel() * width
        if not (is_inside_one_vector and has_all_tokens):
            return None
        return OutputSlice(module, start, step, width)

    def _record_leaf(self, tensor: torch.Tensor, part: OutputSlice) -> None:
        self._get_or_create_properties(tensor).expression = Expression.leaf(tensor, part)


def _has_same_vectors(source: torch.Tensor, view: torch.Tensor) -> bool:
    return view.dim() > 0 and view.shape[-1] == source.shape[-1] and view.numel() == source.numel()
