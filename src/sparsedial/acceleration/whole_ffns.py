"""Gated FFNs whose module computes nothing else, which a decode step computes in one call.

Each return to Python costs time in a decode step, because the weights have evicted the interpreter's data from the
caches. The projections stay patched: their patches run whenever the FFN is not computed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, Backend, FfnKernels, FfnStep, GatedFormula
from sparsedial.acceleration.dense_calls import DenseCalls
from sparsedial.acceleration.kept_input_projections import KeptInputProjections
from sparsedial.acceleration.operators import register_operator
from sparsedial.acceleration.projections import Projections
from sparsedial.acceleration.weight_layout import WeightMemory
from sparsedial.ffn.expression import Expression
from sparsedial.ffn.feed_forward import FFN
from sparsedial.ffn.projections import out_features
from sparsedial.hooks.module_patch import ForwardPatch
from sparsedial.kernels.dispatcher_observers import dispatcher_is_unobserved, kernel_can_read
from sparsedial.kernels.operator_handles import Handles
from sparsedial.tracing_state import is_tracing, tracing

_GLOBAL_HOOKS = (
    torch.nn.modules.module._global_forward_hooks,
    torch.nn.modules.module._global_forward_pre_hooks,
)
"""The hooks of all modules, which `torch.nn.modules.module.register_module_forward_hook` registers."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ACTIVATIONS = {
    ("aten.silu.default", None): "silu",
    ("aten.gelu.default", None): "gelu",
    ("aten.gelu.default", "none"): "gelu",
    ("aten.gelu.default", "tanh"): "gelu_tanh",
    ("aten.relu.default", None): "relu",
}
"""Names of the activations, by the operator and its argument ``approximate``."""

_ffns: Handles[WholeFfn] = Handles()


def find_formula(model: nn.Module, ffn: FFN, backend: Backend) -> GatedFormula | None:
    """Return the formula of an FFN if its module computes it and nothing else.

    The module is called once with one vector.

    Args:
        model: The model.
        ffn: One of its FFNs, which has no patches yet.
        backend: The kernels of the device.

    Returns:
        The formula. None if the module may compute something else, if the activation is unknown, or if the backend has
        no kernels of whole FFNs.
    """
    activation = _find_activation(ffn)
    if activation is None or backend.ffn_kernels is None:
        return None
    module = model.get_submodule(ffn.name)
    if module.training or _has_changes(module) or not _returns_ffn(module, ffn):
        return None
    starts = []
    assert ffn.gate is not None
    for part in (ffn.up, ffn.gate):
        start = part.start
        for projection in ffn.input_projections[: ffn.input_projections.index(part.module)]:
            start += out_features(projection)
        starts.append(start)
    return GatedFormula(activation, ffn.width, starts[0], starts[1])


def _find_activation(ffn: FFN) -> str | None:
    """Return the name of the activation of a gated FFN, if its intermediate vector is u times the activation."""
    value = ffn.gate_value
    if not ffn.gated or not ffn.intermediate_is_product or value is None or not ffn.branch("up").is_identity:
        return None
    if len(value.args) != 1 or value.is_mutating or ffn.gate is None:
        return None
    operand = value.args[0]
    if not isinstance(operand, Expression) or operand.part != ffn.gate:
        return None
    if ffn.up.step != 1 or ffn.gate.step != 1 or set(value.kwargs) > {"approximate"}:
        return None
    return _ACTIVATIONS.get((str(value.func), value.kwargs.get("approximate")))


@torch.no_grad()
def _returns_ffn(module: nn.Module, ffn: FFN) -> bool:
    """Return True if a module passes its argument to the projections and returns the output of the last one."""
    weight = ffn.down.weight
    assert isinstance(weight, Tensor)
    x = torch.zeros((1, 1, ffn.hidden), dtype=weight.dtype, device=weight.device)
    read: list[Any] = []
    returned: list[Any] = []
    handles = [ffn.down.register_forward_hook(lambda _module, _args, output: returned.append(output))]
    for projection in ffn.input_projections:
        handles.append(projection.register_forward_pre_hook(lambda _module, args: read.append(args[0])))
    try:
        with tracing():
            result = module(x)
    except Exception:  # the module takes other arguments
        return False
    finally:
        for handle in handles:
            handle.remove()
    reads_x = len(read) == len(ffn.input_projections) and all(vector is x for vector in read)
    return reads_x and len(returned) == 1 and returned[0] is result


def _has_changes(module: nn.Module) -> bool:
    """Return True if a module, or one inside it, has a hook or a forward of its own."""
    for child in module.modules():
        state = vars(child)
        if "forward" in state or any(state.get(name) for name in _HOOKS):
            return True
    return False


class FfnDecode(NamedTuple):
    """The kernel of a decode step, and the counts of its products that run without their rules."""

    compute: FfnStep
    dense_calls: tuple[DenseCalls, ...]


class WholeFfn:
    """A gated FFN, computed in one call or by calls of its projections, always with the same activation.

    Args:
        formula: What the FFN computes.
        kernels: The kernels of the device.
        ffn: The FFN.
        max_entries: Number of entries of the longest argument that is computed here and not by the module.
        steps: The kernels of decode steps, by the number of vectors. The projections are called for other numbers.
        readers: The projections of x and of the intermediate vector, whose weights the kernels read.

    Attributes:
        handle: Number by which compiled code finds this object.
        outputs: Number of entries of the result of one vector.
    """

    def __init__(
        self,
        formula: GatedFormula,
        kernels: FfnKernels,
        ffn: FFN,
        max_entries: int,
        steps: Mapping[int, FfnDecode] = MappingProxyType({}),
        readers: Sequence[Projections] = (),
    ) -> None:
        self._formula = formula
        self._kernels = kernels
        self._ffn = ffn
        self._steps = dict(steps)
        self._hidden = ffn.hidden
        self._max_entries = max_entries
        weight = ffn.down.weight
        assert isinstance(weight, Tensor)
        self._dtype = weight.dtype
        self._memories = tuple(reader.memory for reader in readers)
        self._children: list[Any] = []  # the dictionaries of children of the modules, and copies of them
        self._children_before: list[Any] = []
        self._projections: list[tuple[dict[str, Any], Any]] = []
        self._others: list[tuple[dict[str, Any], Any]] = []
        self._inner: Callable[[Any], Any]  # set by `watch`, as the entries of the lists
        self.outputs = out_features(ffn.down)
        self.handle = _ffns.add(self)

    def watch(self, module: nn.Module, inner: Callable[[Any], Any]) -> None:
        """Remember the hooks and forwards of the modules in a module, to notice when they change.

        Args:
            module: The module that computes the FFN. The projections in it have their patches.
            inner: Its forward, which computes what this object does not.
        """
        self._inner = inner  # compiled code calls the operator with a number, which finds only this object
        projections = [*self._ffn.input_projections, self._ffn.down]
        self._state = vars(module)
        for child in module.modules():
            entry = (vars(child), vars(child).get("forward"))
            if child._modules:
                self._children.append(child._modules)
                self._children_before.append(dict(child._modules))
            if child in projections:
                self._projections.append(entry)
            elif child is not module:
                self._others.append(entry)

    def __call__(self, x: Any) -> Any:
        """Return the result of the FFN.

        Args:
            x: The vectors, shape [..., hidden].
        """
        if type(x) is not Tensor or x.dtype is not self._dtype or not x.is_cpu or x.requires_grad:
            return self._inner(x)
        if not 0 < x.numel() <= self._max_entries or is_tracing() or torch.is_autocast_enabled("cpu"):
            return self._inner(x)
        if torch.is_grad_enabled() and any(memory.need_gradients() for memory in self._memories):
            return self._inner(x)
        if not torch.compiler.is_compiling() and not kernel_can_read(x):
            return self._inner(x)
        if not dispatcher_is_unobserved():
            return torch.ops.sparsedial.accelerated_ffn.default(x, self.handle)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """Return the result of the FFN, by the forward of the module if it has another width or has been changed.

        Compiled code compares all attributes that `__call__` reads before each step. Those that are read here are not
        compared.

        Args:
            x: Vectors, shape [..., hidden].
        """
        if x.shape[-1] == self._hidden and self._has_children() and _are_unchanged(self._others):
            return self.compute(x.contiguous())
        result: Tensor = self._inner(x)
        return result

    def compute(self, x: Tensor) -> Tensor:
        """Return the result of the FFN.

        Args:
            x: Vectors, shape [..., hidden], contiguous.
        """
        vectors = x.numel() // self._hidden
        step = self._steps.get(vectors)
        has_weights = all(map(WeightMemory.is_unchanged, self._memories))
        if step is not None and has_weights and _are_unchanged(self._projections):
            for dense_calls in step.dense_calls:
                dense_calls.add(vectors)
            return step.compute(x)
        ffn = self._ffn
        assert ffn.gate is not None
        outputs = {module: module(x) for module in ffn.input_projections}
        gate = ffn.gate.select(outputs[ffn.gate.module])
        up = ffn.up.select(outputs[ffn.up.module])
        if self._can_activate(gate) and self._can_activate(up) and gate.shape == up.shape:
            intermediate = self._kernels.activate(self._formula, gate, up)
        else:  # a hook has replaced an output
            intermediate = up * ffn.compute_vector("gate", outputs[ffn.gate.module])
        result: Tensor = ffn.down(intermediate)
        return result

    def _has_children(self) -> bool:
        """Return True if the modules inside are those that were watched, in evaluation mode, without global hooks."""
        if self._state["training"] or _GLOBAL_HOOKS[0] or _GLOBAL_HOOKS[1]:
            return False
        for state, _ in self._others:
            if state["training"]:
                return False
        return self._children == self._children_before

    def _can_activate(self, vector: Tensor) -> bool:
        """Return True if the kernel of the activation can read an output of a projection."""
        if type(vector) is not Tensor or vector.dtype is not self._dtype or not vector.is_cpu:
            return False
        return not vector.requires_grad and kernel_can_read(vector)


def make_decode_ffn(
    formula: GatedFormula, ffn: FFN, projections: tuple[KeptInputProjections, KeptInputProjections]
) -> WholeFfn:
    """Return an FFN whose decode steps are one call, if the kernels have its rules.

    Args:
        formula: What the FFN computes.
        ffn: The FFN.
        projections: The projections of x and of the intermediate vector.
    """
    kernels = projections[0].settings.backend.ffn_kernels
    assert kernels is not None  # there is a formula
    first, second = (reader.describe_decode() for reader in projections)
    steps_by_choice: dict[tuple[bool, bool], FfnStep | None] = {}
    steps = {}
    for vectors in range(1, MAX_DECODE_VECTORS + 1):
        dense = (vectors in first.dense_steps, vectors in second.dense_steps)
        if dense not in steps_by_choice:
            steps_by_choice[dense] = kernels.make_step(
                formula, (first.product, second.product), (first.rule, second.rule), dense
            )
        step = steps_by_choice[dense]
        dense_parts = [part for part, is_dense in zip((first, second), dense, strict=True) if is_dense]
        if step is not None:
            steps[vectors] = FfnDecode(step, tuple(part.dense_calls for part in dense_parts))
    return WholeFfn(formula, kernels, ffn, MAX_DECODE_VECTORS * ffn.hidden, steps, projections)


class FfnPatch(ForwardPatch):
    """Patch that lets `WholeFfn` compute the result of a module until `remove` is called.

    Args:
        module: The module that computes the FFN.
        whole: The FFN.
    """

    def __init__(self, module: nn.Module, whole: WholeFfn) -> None:
        super().__init__(module, whole)
        whole.watch(module, self._inner)

    def _select_forward(self) -> Callable[..., Any]:
        return self._call

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(self._apply, WholeFfn):
            return self._apply(args[0])
        return self._inner(*args, **kwargs)


def _are_unchanged(modules: list[tuple[dict[str, Any], Any]]) -> bool:
    """Return True if no module has a hook, or another forward than before."""
    for state, forward in modules:
        if state["_forward_hooks"] or state["_forward_pre_hooks"] or state.get("forward") is not forward:
            return False
    return True


def _run_ffn(x: Tensor, handle: int) -> Tensor:
    return _ffns.find(handle).run(x)


def _compute_fake_tensors(x: Tensor, handle: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], _ffns.find(handle).outputs))


register_operator("accelerated_ffn", "Tensor x, int handle", _run_ffn, _compute_fake_tensors)
