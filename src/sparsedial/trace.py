"""Watches one tiny forward and says which projection's input is an elementwise function of other projections' outputs.

Names and classes play no part: a *projection* is any leaf module with a 2-D weight, and every tensor
computed from projection outputs by elementwise operations only is an expression over them. What
attention, normalisation or a convolution touches is not, and is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# Operations that bend: an expression without one of these is a linear map, not an FFN's activation.
# fmt: off
_BENDS = frozenset({
    "_prelu_kernel", "celu", "clamp_min", "elu", "erf", "exp", "expm1", "ge", "gelu", "gt", "hardsigmoid", "hardswish",
    "hardtanh", "le", "leaky_relu", "log_sigmoid_forward", "lt", "maximum", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "softplus", "tanh", "threshold",
})
# Elementwise in effect, though torch does not tag them so.
_COPIES = frozenset({"_to_copy", "alias", "clone", "contiguous", "detach", "lift_fresh"})
# Rows picked out: what an expert reads.
_PICKS = frozenset({"gather", "index", "index_select"})
_JOINS = frozenset({"cat", "stack"})
# One number per token out of a vector (Gemma 3n's cut-off): part of an expression, never its result.
_REDUCTIONS = frozenset({
    "amax", "amin", "linalg_vector_norm", "max", "mean", "min", "std", "std_mean", "sum", "var", "var_mean",
})
# fmt: on

_watching = False


def watching() -> bool:
    """Whether a trace is under way: a dial that is attached lets such a forward pass as it is."""
    return _watching


@dataclass(frozen=True)
class Part:
    """Which entries of a module's output vector: ``output[..., start : start + step * width : step]``."""

    module: nn.Module
    start: int
    step: int
    width: int

    @property
    def whole(self) -> bool:
        """Whether this is the module's output as it is."""
        return self.start == 0 and self.step == 1 and self.width == min_output(self.module)

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """These entries of the module's output, a view."""
        return output[..., self.start : self.start + self.step * self.width : self.step]


@dataclass(eq=False)
class Expression:
    """A tensor as elementwise operations over parts: a tree that can be evaluated again on other values."""

    tensor: torch.Tensor
    part: Part | None = None
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    parts: frozenset[Part] = frozenset()
    bends: bool = False

    @property
    def name(self) -> str:
        """The operation's name without namespace and overload (``mul``); empty for a part."""
        return _name(self.func) if self.func is not None else ""

    @property
    def operands(self) -> list[Expression]:
        """The operation's arguments that are expressions themselves."""
        return [a for a in tree_flatten((self.args, self.kwargs))[0] if isinstance(a, Expression)]

    def __call__(self, values: dict[Part, torch.Tensor]) -> torch.Tensor:
        """Evaluate with ``values`` in place of the parts."""
        if self.part is not None:
            return values[self.part]
        if self.func is None:
            raise RuntimeError("an expression is a part or an operation")

        def evaluate(a: Any) -> Any:
            return a(values) if isinstance(a, Expression) else a

        args = list(tree_map(evaluate, self.args, is_leaf=_is_expression))
        if _mutates(self.func):
            args[0] = args[0].clone()
        return self.func(*args, **tree_map(evaluate, self.kwargs, is_leaf=_is_expression))


@dataclass(eq=False)
class Read:
    """One call of a projection: what it read, as an expression where it is one.

    Attributes:
        module: the projection.
        source: identifies the tensor it read.
        expression: that tensor as elementwise operations over other projections' outputs.
        picked: whether that tensor's rows were picked from another's, as a router does for an expert.
        activated: whether an activation bends the projection's own output.
    """

    module: nn.Module
    source: int
    expression: Expression | None
    picked: bool
    activated: bool = False


def first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A module's first argument, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()), None)


def min_output(module: nn.Module) -> int:
    """How many outputs a projection has (`nn.Linear`: rows of its weight; `Conv1D`: columns)."""
    weight = module.weight
    return int(weight.shape[1] if type(module).__name__ == "Conv1D" else weight.shape[0])  # type: ignore[index]  # `is_projection` saw 2-D


def input_width(module: nn.Module) -> int:
    """How many entries a projection reads."""
    return sum(module.weight.shape) - min_output(module)  # type: ignore[arg-type]  # as above


def is_projection(module: nn.Module) -> bool:
    """A leaf module with a 2-D weight that multiplies a vector (so not an embedding)."""
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, torch.Tensor)
        and weight.dim() == 2
        and next(module.children(), None) is None
        and not isinstance(module, nn.Embedding)
    )


def trace(model: nn.Module, inputs: dict[str, Any], *args: Any) -> list[Read]:
    """Run ``model(*args, **inputs)`` once and return every projection's call, in order.

    Hooks are removed and training mode is restored whatever happens; parameters are not touched.
    """
    global _watching
    watch = _Watch({id(t) for t in (*model.parameters(), *model.buffers())})
    handles, reads, training = [], [], [m for m in model.modules() if m.training]

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first(args, kwargs)
        if isinstance(x, torch.Tensor):
            watch.alive.append(x)
            reads.append(Read(module, id(x), watch.expressions.get(id(x)), id(x) in watch.picked))

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            watch.outputs[_storage(output)] = (output, module)
            watch.remember(output, _whole(output, Part(module, 0, 1, output.shape[-1])))

    try:
        for module in model.modules():
            if is_projection(module):
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after, with_kwargs=True))
        model.eval()
        _watching = True
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), watch:  # what is compiled cannot be watched
            model(*args, **inputs)
    finally:
        _watching = False
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    for read in reads:
        read.activated = id(read.module) in watch.activated
    return reads


class _Watch(TorchDispatchMode):
    """Follows expressions through every operation torch dispatches."""

    def __init__(self, constants: set[int]) -> None:
        super().__init__()
        self.constants = constants
        self.expressions: dict[int, Expression] = {}
        self.outputs: dict[int, tuple[torch.Tensor, nn.Module]] = {}  # by storage: what its views are parts of
        self.picked: set[int] = set()
        self.activated: set[int] = set()  # projections (by id) whose output an activation bends
        self.alive: list[torch.Tensor] = []  # an id means a tensor only while that tensor lives

    def remember(self, tensor: torch.Tensor, expression: Expression) -> None:
        self.alive.append(tensor)
        self.expressions[id(tensor)] = expression

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        known = [self.expressions.get(id(t)) for t in tensors]
        out = func(*args, **kwargs)
        results = [o for o in tree_flatten(out)[0] if isinstance(o, torch.Tensor)]
        name = _name(func)
        if name in _PICKS or (name in _COPIES | _JOINS and any(id(t) in self.picked for t in tensors)):
            self._pick(results)
        if tensors and not _mutates(func) and _is_view(results, tensors[0]):
            for o in results:
                self._view(tensors[0], o)
        elif not any(known):
            if tensors and all(id(t) in self.constants for t in tensors):  # computed from parameters alone
                self.alive += results
                self.constants.update(id(o) for o in results)
        elif name == "native_dropout" and known[0] is not None:
            self.remember(results[0], known[0])
        elif (torch.Tag.pointwise in func.tags or name in _COPIES or name in _REDUCTIONS) and all(
            e is not None or self._constant(t) for t, e in zip(tensors, known, strict=True)
        ):
            if len(results) == 1:
                self._combine(func, name, args, kwargs, results[0])
        elif _mutates(func):
            self.expressions.pop(id(tensors[0]), None)
        return out

    def _constant(self, tensor: torch.Tensor) -> bool:
        """A parameter, a scalar, or one number per token: it moves all entries of a vector alike or not with x."""
        return id(tensor) in self.constants or tensor.numel() == 1 or tensor.shape[-1] == 1

    def _combine(self, func: Any, name: str, args: Any, kwargs: Any, out: torch.Tensor) -> None:
        def lift(a: Any) -> Any:
            return self.expressions.get(id(a), a) if isinstance(a, torch.Tensor) else a

        lifted_args, lifted_kwargs = tree_map(lift, args), tree_map(lift, kwargs)
        operands = [a for a in tree_flatten((lifted_args, lifted_kwargs))[0] if isinstance(a, Expression)]
        bends = name.removesuffix("_") in _BENDS
        if bends:
            self.activated |= {id(part.module) for o in operands for part in o.parts}
        expression = Expression(
            out.detach().clone(),
            func=func,
            args=tuple(lifted_args),
            kwargs=lifted_kwargs,
            parts=frozenset().union(*(o.parts for o in operands)),
            bends=bends or any(o.bends for o in operands),
        )
        self.remember(out, expression)

    def _pick(self, results: list[torch.Tensor]) -> None:
        self.alive += results
        self.picked |= {id(o) for o in results}

    def _view(self, source: torch.Tensor, out: torch.Tensor) -> None:
        """A slice of a projection's output is a part, read off the strides; other views keep whole vectors or go."""
        if id(source) in self.picked:
            self._pick([out])
        expression = self.expressions.get(id(source))
        if expression is not None and out.dim() and out.shape[-1] == source.shape[-1] and out.numel() == source.numel():
            return self.remember(out, expression)
        output, module = self.outputs.get(_storage(out), (None, None))
        if output is None or module is None or out.dim() == 0 or not output.is_contiguous():
            return
        width, step = output.shape[-1], int(out.stride(-1))
        start = int(out.storage_offset() - output.storage_offset()) % width
        inside = step > 0 and start + step * (out.shape[-1] - 1) < width
        if inside and out.numel() * width == output.numel() * out.shape[-1]:
            self.remember(out, _whole(out, Part(module, start, step, out.shape[-1])))


def _whole(tensor: torch.Tensor, part: Part) -> Expression:
    return Expression(tensor.detach().clone(), part=part, parts=frozenset([part]))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _name(func: Any) -> str:
    return str(func).split(".")[1] if str(func).count(".") >= 2 else str(getattr(func, "__name__", func))


def _mutates(func: Any) -> bool:
    schema = getattr(func, "_schema", None)
    return schema is not None and schema.is_mutable


def _is_view(results: list[torch.Tensor], source: torch.Tensor) -> bool:
    return bool(results) and all(_storage(o) == _storage(source) for o in results)


def _is_expression(a: Any) -> bool:
    return isinstance(a, Expression)
