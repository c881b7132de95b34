"""The operator `torch.ops.sparsedial.select(x, rule, value) -> (y, kept)`, dispatched by the tensor's device.

CPU tensors go to `cpu_backend` (numba) and CUDA tensors to `cuda_backend` (Triton). Other tensors go to `reference`,
and so do all tensors whose backend is not installed. The environment variable
``SPARSEDIAL_BACKEND=reference|cpu|triton`` forces one backend.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from sparsedial.errors import SpecError
from sparsedial.kernels import reference
from sparsedial.kernels.dispatcher_observers import dispatcher_is_unobserved
from sparsedial.rules import RULES, Rule, make_rule

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

Select = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""The signature of every backend: ``select(x, rule, kept=None, warm_start=False) -> (y, kept)``."""

_library = torch.library.Library("sparsedial", "DEF")
_library.define("select(Tensor x, str rule, float value) -> (Tensor, Tensor)")


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


def _backend_for(device_type: str) -> Select:
    forced = os.environ.get(BACKEND_VARIABLE)
    if forced:
        return load_backend(forced)
    return load_backend_or_reference(DEVICE_BACKENDS.get(device_type, "reference"))


def _select(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return _backend_for(x.device.type)(x, make_rule(rule, value))


def _select_on_fake_tensors(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.int32)


_library.impl("select", _select, "CompositeExplicitAutograd")
torch.library.register_fake("sparsedial::select", _select_on_fake_tensors, lib=_library)


def check_rule_supported(rule: Rule) -> None:
    """Raise an error if no backend computes a rule.

    Args:
        rule: The rule.

    Raises:
        SpecError: The rule is not one of those in `sparsedial.rules.RULES`.
    """
    name = getattr(rule, "name", None)
    if name not in RULES or not isinstance(rule, RULES[name]):
        raise SpecError(f"no kernel computes the rule {name!r} ({rule!r}): expected one of {', '.join(RULES)}")


class BoundRule:
    """A rule bound to its backends. Each backend is looked up once, because a decode step makes many small calls.

    Args:
        rule: `TopP`, `TopK` or `MaxP`. A `SpecError` is raised for a rule that no backend computes.

    Attributes:
        rule: The rule.

    Example:
        >>> from sparsedial.rules import TopK
        >>> bound_rule = BoundRule(TopK(0.5))
        >>> bound_rule(torch.tensor([3.0, -1.0, 2.0, 1.0]))
        (tensor([3., 0., 2., 0.]), tensor(2, dtype=torch.int32))
    """

    def __init__(self, rule: Rule) -> None:
        check_rule_supported(rule)
        self.rule = rule
        self._cpu: Select | None = None
        self._cuda: Select | None = None

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the rule to each vector of a tensor.

        The call goes through PyTorch's dispatcher only if a compiler, dispatch mode or profiler observes it. These
        then see the operator `sparsedial::select`.

        Args:
            x: Vectors, shape [..., D], float32, bfloat16, float16 or float64.

        Returns:
            The sparse vectors and the number of entries kept in each, as `apply_rule` returns them.
        """
        if dispatcher_is_unobserved():
            return self.call_backend(x)
        return torch.ops.sparsedial.select.default(x, self.rule.name, self.rule.value)

    def call_backend(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the rule without PyTorch's dispatcher, which must be idle (see `dispatcher_is_unobserved`).

        A tensor subclass, and a tensor on a device other than CPU and CUDA, still goes through the dispatcher.

        Args:
            x: Vectors, shape [..., D], float32, bfloat16, float16 or float64.
            kept: Memory that the backend may use for the counts, shape [...], int32 and contiguous; none by default.

        Returns:
            The sparse vectors and the number of entries kept in each, as `apply_rule` returns them. The counts may be
            in memory other than ``kept``.
        """
        if type(x) is torch.Tensor:
            if x.is_cuda:
                self._cuda = self._cuda or _backend_for("cuda")
                return self._cuda(x, self.rule, kept, warm_start=True)
            if x.is_cpu:
                self._cpu = self._cpu or _backend_for("cpu")
                return self._cpu(x, self.rule, kept)
        return torch.ops.sparsedial.select.default(x, self.rule.name, self.rule.value)

    def decode_slots(self, widths: Sequence[int]) -> DecodeSlots | None:
        """Return slots that apply the rule to single vectors on the CPU, once per slot and decode step.

        Args:
            widths: Number of entries of each slot's vectors.

        Returns:
            The slots, or None if CPU tensors do not go to the backend `cpu`.
        """
        if _backend_for("cpu").__module__ != BACKEND_MODULES["cpu"]:
            return None
        from sparsedial.kernels.cpu_backend import DecodeSlots

        return DecodeSlots(widths, self.rule)


def apply_rule(x: torch.Tensor, rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to each vector of a tensor.

    Args:
        x: Vectors, shape [..., D], float32, bfloat16, float16 or float64, with any strides.
        rule: `TopP`, `TopK` or `MaxP`.

    Returns:
        The sparse vectors, shape [..., D], of the same dtype, with dropped entries set to zero, and the number of
        entries kept in each, shape [...], int32. A vector with a NaN or Inf is unchanged, and its count is -1. The call
        does not synchronise the host with the device.

    Raises:
        SpecError: ``x`` is not a float tensor with at least one dimension, or ``rule`` is not a supported rule.

    Example:
        >>> import sparsedial as sd
        >>> y, kept = sd.apply_rule(torch.tensor([[4.0, -3.0, 2.0, 1.0]]), sd.TopP(0.8))
        >>> y, kept
        (tensor([[ 4., -3.,  2.,  0.]]), tensor([3], dtype=torch.int32))
    """
    if not isinstance(rule, Rule):
        raise SpecError(f"apply_rule: expected a rule such as TopP(0.9), got {rule!r}")
    check_rule_supported(rule)
    if not isinstance(x, torch.Tensor):
        raise SpecError(f"apply_rule: expected a float tensor [..., D], got {type(x)!r}")
    if x.dtype not in DTYPES or x.dim() == 0:
        raise SpecError(f"apply_rule: expected a float tensor [..., D], got {x.dtype} tensor of shape {tuple(x.shape)}")
    return torch.ops.sparsedial.select(x, rule.name, rule.value)
