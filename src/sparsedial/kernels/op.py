"""The op: `torch.ops.sparsedial.select(x, rule, value) -> (y, kept)`, dispatched by the tensor's device.

CPU tensors go to `cpu` (numba), CUDA tensors to `cuda` (Triton), the rest, or where one of these is
not installed, to `reference`. ``SPARSEDIAL_BACKEND=reference|cpu|triton`` forces one.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable

import torch

from sparsedial.errors import SpecError
from sparsedial.kernels import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BACKENDS = {"reference": "reference", "cpu": "cpu", "triton": "cuda"}  # name: module
VARIABLE = "SPARSEDIAL_BACKEND"

Select = Callable[[torch.Tensor, str, float], tuple[torch.Tensor, torch.Tensor]]

_library = torch.library.Library("sparsedial", "DEF")
_library.define("select(Tensor x, str rule, float value) -> (Tensor, Tensor)")


@functools.cache
def load(name: str) -> Select:
    """The backend of that name; what it needs (numba, Triton) is imported here, on first use.

    Raises:
        SpecError: an unknown name.
        ImportError: what the backend needs is not installed.
    """
    if name not in BACKENDS:
        raise SpecError(f"{VARIABLE}={name!r}: expected one of {', '.join(BACKENDS)}")
    return importlib.import_module(f"sparsedial.kernels.{BACKENDS[name]}").select


@functools.cache
def _load_or_reference(name: str) -> Select:
    try:
        return load(name)
    except ImportError as error:
        warnings.warn(f"sparsedial: the {name} backend is not there ({error}); using the slow reference", stacklevel=2)
        return reference.select


def _on_cpu(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    forced = os.environ.get(VARIABLE)
    return (load(forced) if forced else _load_or_reference("cpu"))(x, rule, value)


def _on_cuda(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    forced = os.environ.get(VARIABLE)
    return (load(forced) if forced else _load_or_reference("triton"))(x, rule, value)


def _fake(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.int32)


def select(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The op, called without torch's dispatcher where nobody listens to it: a decode step is full of small calls.

    The dispatcher is gone through while compiling, under a dispatch mode (fake tensors, tracers), for a tensor
    subclass, and while profiling, so that the op is seen there by its name.
    """
    if (
        torch.compiler.is_compiling()
        or type(x) is not torch.Tensor
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd.profiler._is_profiler_enabled
        or (kernel := _DIRECT.get(x.device.type)) is None
    ):
        return torch.ops.sparsedial.select.default(x, rule, value)
    return kernel(x, rule, value)


_DIRECT: dict[str, Select] = {"cpu": _on_cpu, "cuda": _on_cuda}
_library.impl("select", reference.select, "CompositeExplicitAutograd")
_library.impl("select", _on_cpu, "CPU")
_library.impl("select", _on_cuda, "CUDA")
torch.library.register_fake("sparsedial::select", _fake, lib=_library)
