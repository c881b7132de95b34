"""The operator `torch.ops.sparsedial.select(x, rule, value) -> (y, kept)`, dispatched by the tensor's device.

CPU tensors go to `cpu_backend` (numba) and CUDA tensors to `cuda_backend` (Triton). Other tensors go to `reference`,
and so do all tensors whose backend is not installed. The environment variable
``SPARSEDIAL_BACKEND=reference|cpu|triton`` forces one backend.

These backends compute the built-in rules. Any other rule goes to the kernel that was registered for its class and the
tensor's device (`register_kernel`), otherwise to `reference`. A compiler or dispatch mode sees such a rule as the
operator `torch.ops.sparsedial.select_custom(x, handle)`, because its name and value do not describe it completely.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sparsedial.errors import SpecError
from sparsedial.kernels import reference, threshold_kernel  # noqa: F401 - registers its kernel
from sparsedial.kernels.dispatcher_observers import dispatcher_is_unobserved, is_transformed
from sparsedial.kernels.gradient import find_kept_entries, register_batching, register_gradient
from sparsedial.kernels.kernel_registry import Select, find_kernel
from sparsedial.kernels.operator_handles import Handles
from sparsedial.rules import MaxP, Rule, TopK, TopP, VectorRule, check_rule, make_rule

if TYPE_CHECKING:  # numba is imported on first use
    from sparsedial.kernels.cpu_backend import DecodeSlots

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BACKEND_VARIABLE = "SPARSEDIAL_BACKEND"
BACKEND_MODULES = {
    "reference": "sparsedial.kernels.reference",
    "cpu": "sparsedial.kernels.cpu_backend",
    "triton": "sparsedial.kernels.cuda_backend",
}
DEVICE_BACKENDS = {"cpu": "cpu", "cuda": "triton"}
BUILTIN_RULES = (TopP, TopK, MaxP)
"""Classes of the rules that the backends compute. A subclass can keep other entries, so it is not one of them."""

_library = torch.library.Library("sparsedial", "DEF")
_library.define("select(Tensor x, str rule, float value) -> (Tensor, Tensor)")
_library.define("select_custom(Tensor x, int handle) -> (Tensor, Tensor)")
_custom_rules: Handles[BoundRule] = Handles()


def has_backend(rule: object) -> bool:
    """Return True if the backends compute a rule, which its name and its value then describe completely.

    Args:
        rule: Any object.

    Example:
        >>> has_backend(TopP(0.9)), has_backend(TopP(0.9, q=2))
        (True, False)
    """
    return type(rule) in BUILTIN_RULES and (type(rule) is not TopP or rule.q == 1.0)


@functools.cache
def load_backend(name: str) -> Select:
    """Import a backend and its dependencies (numba or Triton).

    Args:
        name: ``reference``, ``cpu`` or ``triton``.

    Returns:
        The backend's `select`. An `ImportError` is raised if a dependency is not installed.

    Raises:
        SpecError: The name is unknown.
    """
    if name not in BACKEND_MODULES:
        raise SpecError(f"{BACKEND_VARIABLE}={name!r}: expected one of {', '.join(BACKEND_MODULES)}")
    return importlib.import_module(BACKEND_MODULES[name]).select


@functools.cache
def load_backend_or_reference(name: str) -> Select:
    """Import a backend. If it is not installed, warn once and return the reference.

    Args:
        name: ``reference``, ``cpu`` or ``triton``.

    Returns:
        The `select` of the backend or of the reference.
    """
    try:
        return load_backend(name)
    except ImportError as error:
        warnings.warn(
            f"sparsedial: the {name} backend cannot be imported ({error}): using the slow reference backend instead. "
            "Install the missing package for the fast backend.",
            stacklevel=2,
        )
        return reference.select


def _backend_for(device_type: str, rule: VectorRule) -> Select:
    forced = os.environ.get(BACKEND_VARIABLE)
    if not has_backend(rule):
        if forced and load_backend(forced) is reference.select:
            return reference.select
        return find_kernel(type(rule), device_type) or reference.select
    if forced:
        return load_backend(forced)
    return load_backend_or_reference(DEVICE_BACKENDS.get(device_type, "reference"))


def _select(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    builtin_rule = make_rule(rule, value)
    return _backend_for(x.device.type, builtin_rule)(x, builtin_rule)


def _find_custom_rule(handle: int) -> VectorRule:
    rule: VectorRule = _custom_rules.find(handle).rule
    return rule


def _select_custom(x: torch.Tensor, handle: int) -> tuple[torch.Tensor, torch.Tensor]:
    rule = _find_custom_rule(handle)
    return _backend_for(x.device.type, rule)(x, rule)


def _select_on_fake_tensors(x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.int32)


_library.impl("select", _select, "CompositeExplicitAutograd")
_library.impl("select_custom", _select_custom, "CompositeExplicitAutograd")
for _operator, _make_rule in (("sparsedial::select", make_rule), ("sparsedial::select_custom", _find_custom_rule)):
    torch.library.register_fake(_operator, _select_on_fake_tensors, lib=_library)
    register_gradient(_operator, _make_rule, _library)
    register_batching(_operator, _library)


class BoundRule:
    """A rule bound to its backends. Each backend is looked up once, because a decode step makes many small calls.

    Args:
        rule: The rule, or the result of `Rule.bind` for one FFN.

    Attributes:
        rule: The rule.

    Example:
        >>> from sparsedial.rules import TopK
        >>> bound_rule = BoundRule(TopK(0.5))
        >>> bound_rule(torch.tensor([3.0, -1.0, 2.0, 1.0]))
        (tensor([3., 0., 2., 0.]), tensor(2, dtype=torch.int32))
    """

    def __init__(self, rule: VectorRule) -> None:
        self.rule = rule
        self._cpu: Select | None = None
        self._cuda: Select | None = None
        self._handle: int | None = None  # of a rule that name and value do not describe completely
        if not has_backend(rule):
            self._handle = _custom_rules.add(self)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the rule to each vector of a tensor.

        The call goes through PyTorch's dispatcher only if a compiler, dispatch mode or profiler observes it, which then
        sees the operator `sparsedial::select`, or if x requires a gradient.

        Args:
            x: Vectors, shape [..., D], float32, bfloat16, float16 or float64.

        Returns:
            The sparse vectors and the number of entries kept in each, as `apply_rule` returns them.
        """
        if not x.requires_grad and dispatcher_is_unobserved():
            return self.call_backend(x)
        return self._call_operator(x)

    def call_backend(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the rule without PyTorch's dispatcher, which must be idle (see `dispatcher_is_unobserved`).

        The result has no gradient. A tensor subclass, a lazily negated tensor, and a tensor on a device other than CPU
        and CUDA still go through the dispatcher.

        Args:
            x: Vectors, shape [..., D], float32, bfloat16, float16 or float64.
            kept: Memory that the backend may use for the counts, shape [...], int32 and contiguous; none by default.

        Returns:
            The sparse vectors and the number of entries kept in each, as `apply_rule` returns them. The counts may be
            in memory other than ``kept``.
        """
        if type(x) is torch.Tensor and not x.is_neg():
            if x.is_cuda:
                self._cuda = self._cuda or _backend_for("cuda", self.rule)
                return self._cuda(x, self.rule, kept, warm_start=True)
            if x.is_cpu:
                self._cpu = self._cpu or _backend_for("cpu", self.rule)
                return self._cpu(x, self.rule, kept)
        return self._call_operator(x)

    def _call_operator(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not torch.compiler.is_compiling() and is_transformed():
            return self._call_in_transform(x)
        return self._call_registered_operator(x)

    def _call_in_transform(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the rule by operations that `torch.func` and forward-mode differentiation can differentiate."""
        constant = x.detach()
        y, kept = self._call_registered_operator(constant)
        rule = self.rule
        if isinstance(rule, Rule) and rule.value == rule.dense_value:
            return x.clone(), kept
        return torch.where(find_kept_entries(constant, y, kept), x, 0), kept

    def _call_registered_operator(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._handle is not None:
            return torch.ops.sparsedial.select_custom.default(x, self._handle)
        rule: Any = self.rule
        return torch.ops.sparsedial.select.default(x, rule.name, rule.value)

    def decode_slots(self, widths: Sequence[int]) -> DecodeSlots | None:
        """Return slots that apply the rule to single vectors on the CPU, once per slot and decode step.

        Args:
            widths: Number of entries of each slot's vectors.

        Returns:
            The slots, or None if CPU tensors do not go to the backend `cpu`.
        """
        rule: Any = self.rule
        if self._handle is not None or _backend_for("cpu", rule).__module__ != BACKEND_MODULES["cpu"]:
            return None
        from sparsedial.kernels.cpu_backend import DecodeSlots

        return DecodeSlots(widths, rule)


def apply_rule(x: torch.Tensor, rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to each vector of a tensor.

    The gradient is that of ``y = m * x`` with a constant mask m, which is 1 for the kept entries and 0 for the others.
    With the rule's dense value, such as `TopP(1)`, the mask is 1 for all entries, including zeros.

    Args:
        x: Vectors, shape [..., D], float32, bfloat16, float16 or float64, with any strides.
        rule: `TopP`, `TopK`, `MaxP`, or another rule that defines `Rule.keep_mask`.

    Returns:
        The sparse vectors, shape [..., D], of the same dtype, with dropped entries set to zero, and the number of
        entries kept in each, shape [...], int32. A vector with a NaN or Inf is unchanged, and its count is -1. The call
        does not synchronise the host with the device.

    Raises:
        SpecError: ``x`` is not a float tensor with at least one dimension, or ``rule`` is not a rule that defines
            `Rule.keep_mask`.

    Example:
        >>> import sparsedial as sd
        >>> y, kept = sd.apply_rule(torch.tensor([[4.0, -3.0, 2.0, 1.0]]), sd.TopP(0.8))
        >>> y, kept
        (tensor([[ 4., -3.,  2.,  0.]]), tensor([3], dtype=torch.int32))
    """
    check_rule(rule)
    if not isinstance(x, torch.Tensor):
        raise SpecError(f"apply_rule: expected a float tensor [..., D], got {type(x)!r}")
    if x.dtype not in DTYPES or x.dim() == 0:
        raise SpecError(f"apply_rule: expected a float tensor [..., D], got {x.dtype} tensor of shape {tuple(x.shape)}")
    is_compiling = torch.compiler.is_compiling()
    if has_backend(rule) and (is_compiling or not is_transformed()):
        return torch.ops.sparsedial.select(x, rule.name, rule.value)
    if is_compiling:
        return reference.select(x, rule)  # a compiler cannot trace the creation of a handle
    return BoundRule(rule)(x)
