"""The op: `torch.ops.sparsedial.select(x, rule, value) -> (y, kept)`, dispatched by the tensor's device.

CPU tensors go to `cpu` (numba), CUDA tensors to `cuda` (Triton), the rest, or where one of these is
not installed, to `reference`. ``SPARSEDIAL_BACKEND=reference|cpu|triton`` forces one.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sparsedial.errors import SpecError
from sparsedial.kernels import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BACKENDS = {"reference": "reference", "cpu": "cpu", "triton": "cuda"}  # name: module
VARIABLE = "SPARSEDIAL_BACKEND"

Select = Callable[..., tuple[torch.Tensor, torch.Tensor]]  # (x, rule, value, kept=None) -> (y, kept)

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


def _kernel(device: str) -> Select:
    """The backend for tensors on that kind of device."""
    forced = os.environ.get(VARIABLE)
    return load(forced) if forced else _load_or_reference({"cpu": "cpu", "cuda": "triton"}.get(device, "reference"))


def _select(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return _kernel(x.device.type)(x, rule, value)


def _fake(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.int32)


def unheard() -> bool:
    """Whether nobody listens to torch's dispatcher: no compiler, dispatch mode (fake tensors, tracers) or profiler."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd.profiler._is_profiler_enabled
    )


class Bound:
    """The op for one rule, for whoever calls it at every layer: a decode step is full of small calls.

    So what can be found out once is: a device's backend is chosen at its first call.

    >>> bound = Bound("top_k", 0.5)
    >>> bound(torch.tensor([3.0, -1.0, 2.0, 1.0]))
    (tensor([3., 0., 2., 0.]), tensor(2, dtype=torch.int32))
    """

    def __init__(self, rule: str, value: float) -> None:
        self.rule, self.value = rule, value
        self._cpu: Select | None = None
        self._cuda: Select | None = None

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the op: without the dispatcher where it is `unheard`, else through it, so that it is seen by its name."""
        return self.direct(x) if unheard() else torch.ops.sparsedial.select.default(x, self.rule, self.value)

    def direct(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The same where the dispatcher is known to be `unheard`.

        ``kept`` is memory for the counts (int32, contiguous), used or not: what is returned has them.
        """
        if type(x) is torch.Tensor:  # a subclass goes through the dispatcher too
            if x.is_cuda:
                self._cuda = self._cuda or _kernel("cuda")
                return self._cuda(x, self.rule, self.value, kept, True)
            if x.is_cpu:
                self._cpu = self._cpu or _kernel("cpu")
                return self._cpu(x, self.rule, self.value, kept)
        return torch.ops.sparsedial.select.default(x, self.rule, self.value)

    def places(self, widths: Sequence[int]) -> Any:
        """The `sparsedial.kernels.cpu.Places` for vectors of these widths, or None where another backend is in use."""
        kernel = _kernel("cpu")
        made = getattr(sys.modules[kernel.__module__], "Places", None)
        return made and made(widths, self.rule, self.value)


_library.impl("select", _select, "CompositeExplicitAutograd")
torch.library.register_fake("sparsedial::select", _fake, lib=_library)
