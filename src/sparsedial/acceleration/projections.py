"""The projections that read one vector of an FFN, as they run in an accelerated model.

A call with few vectors is a decode step: the rule is applied, and a kernel skips the weights of the dropped entries.
Any other call is prefill. The number of vectors decides and not the phase, because packed batches and chunks of a
prompt exist.

Two projections that read the same vector, up and gate, are computed together by the first of them that is called. The
other one takes the result, if it is called by the same thread with the same tensor.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, Backend, ProductCounts, Selector
from sparsedial.acceleration.operators import register_operator
from sparsedial.acceleration.timing_table import LimitTable
from sparsedial.acceleration.weight_layout import WeightMemory
from sparsedial.ffn.projections import in_features, out_features
from sparsedial.hooks.module_patch import ForwardPatch
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.kernels.dispatcher_observers import dispatcher_is_unobserved, kernel_can_read
from sparsedial.kernels.operator_handles import Handles
from sparsedial.tracing_state import is_tracing

Prefill = Literal["dense", "sparse"]
Execution = Literal["dense", "sparse", "decode"]
WhenSlower = Literal["mask", "dense"]

_projections: Handles[Projections] = Handles()


@dataclass(frozen=True)
class ProjectionSettings:
    """Groups what the projections of all FFNs of a model have in common.

    Attributes:
        backend: The kernels.
        prefill: "dense" to run prefill without the rule, "sparse" to apply the rule, or "decode" to compute each vector
            as in a decode step.
        limits: The measured limits of the products. None to use the kernel whatever its speed.
        when_slower: What a decode step runs where the kernel is not faster: "mask" for the rule and a product with all
            weights, "dense" for a product without the rule.
    """

    backend: Backend
    prefill: Execution
    limits: LimitTable | None
    when_slower: WhenSlower = "mask"


class Projections(ABC):
    """One or two projections that read the same vector.

    Args:
        modules: The projections.
        rule: The rule for the vector, or None. It is applied to prefill only by subclasses.
        settings: What all projections of the model have in common.

    Attributes:
        modules: The projections.
        handle: Number by which compiled code finds this object.
        output_widths: Number of outputs of each projection.
        prefill_calls: Number of calls with many vectors, outside of compiled code.
        memory: Where the weights are that the kernels read.
    """

    def __init__(self, modules: Sequence[nn.Module], rule: BoundRule | None, settings: ProjectionSettings) -> None:
        self.modules = list(modules)
        self.rule = rule
        self.settings = settings
        self.prefill_calls = 0
        self.handle = _projections.add(self)
        weight = modules[0].weight
        assert isinstance(weight, Tensor)
        self.dtype = weight.dtype
        self.width = in_features(modules[0])
        self._device_index = weight.get_device()  # an integer is faster to compare than a device
        self._max_entries = MAX_DECODE_VECTORS * self.width
        if settings.prefill == "decode":
            self._max_entries = sys.maxsize
        self._shares = len(modules) > 1
        self.output_widths = [out_features(module) for module in modules]
        self.memory: WeightMemory  # set by subclasses, after they have rearranged the weights
        # By thread: x, its version and the results.
        self._outputs: dict[int, tuple[Tensor, int, Sequence[Tensor]]] = {}
        self._traced: tuple[Tensor, Sequence[Tensor]] | None = None  # x, and the results, in traced code

    def __call__(self, x: Tensor, index: int, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result of one of the projections.

        Args:
            x: The vectors, shape [..., width].
            index: Index of the projection in ``modules``.
            inner: The forward of the module.
        """
        if x.shape[-1:] != (self.width,):
            return inner(x)  # which raises an error
        is_eager = not is_tracing() and dispatcher_is_unobserved()
        can_accelerate = x.dtype is self.dtype and x.get_device() == self._device_index and not x.requires_grad
        if torch.is_autocast_enabled(x.device.type) or self.memory.need_gradients():
            can_accelerate = False
        if not torch.compiler.is_compiling() and not kernel_can_read(x):
            can_accelerate = False
        if is_eager and not self.memory.is_unchanged():
            can_accelerate = False
        if is_eager and can_accelerate and type(x) is Tensor and x.numel() > 0:
            if x.numel() > self._max_entries:
                return self._run_shared(self.prefill, x, index)
            return self._run_shared(self.decode, x, index)
        if is_tracing():
            return inner(x)
        if x.numel() <= self._max_entries and can_accelerate and x.numel() > 0:
            return self._run_operator(x, index)
        if x.numel() <= self._max_entries or self.settings.prefill == "sparse":
            return self.apply_densely(x, index, inner)
        return inner(x)

    @abstractmethod
    def decode(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for a few vectors, which are contiguous.

        Args:
            x: Vectors, shape [..., width].
        """

    def decode_joined(self, x: Tensor) -> Tensor:
        """Return the results of `decode` side by side, contiguous.

        Args:
            x: Vectors, shape [..., width].
        """
        results = self.decode(x)
        if len(results) == 1:
            return results[0].contiguous()
        return torch.cat(list(results), dim=-1)

    @abstractmethod
    def multiply_dense(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for many vectors, without the rule.

        Args:
            x: Vectors, shape [..., width].
        """

    @abstractmethod
    def multiply_masked(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for many vectors, with the rule.

        Args:
            x: Vectors, shape [..., width].
        """

    @abstractmethod
    def apply_densely(self, x: Tensor, index: int, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result of one projection with the rule, by operations that compilers and autograd understand.

        Args:
            x: Vectors, shape [..., width].
            index: Index of the projection in ``modules``.
            inner: The forward of the module.
        """

    @abstractmethod
    def counts(self) -> list[ProductCounts]:
        """Return the counts of all products."""

    def calls_without_rule(self) -> int:
        """Return the number of calls in decode steps that ran without the rule."""
        return 0

    @abstractmethod
    def reset(self) -> None:
        """Set the counts to zero."""

    def multiply_present_weights(self, x: Tensor) -> Tensor:
        """Return the results of all projections side by side, with the rule and the weights that the modules have now.

        Args:
            x: Vectors, shape [..., width].
        """
        results = []
        for index, module in enumerate(self.modules):
            results.append(self.apply_densely(x, index, partial(call_class_forward, module)))
        return torch.cat(results, dim=-1)

    def _make_selector(self, rule: BoundRule, width: int) -> Selector:
        """Return a function that applies a rule, after a first call.

        On a GPU, the first call compiles, and allocates memory that the later ones use. It must not be part of a CUDA
        graph.
        """
        select = self.settings.backend.make_selector(rule, width, self.dtype)
        if self._device_index >= 0:
            weight = self.modules[0].weight
            assert isinstance(weight, Tensor)
            select(weight.new_zeros((1, width)))
        return select

    def prefill(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for many vectors, which are contiguous, as the settings say.

        Args:
            x: Vectors, shape [..., width].
        """
        self.prefill_calls += 1
        if self.settings.prefill == "sparse":
            return self.multiply_masked(x)
        return self.multiply_dense(x)

    def _run_shared(self, compute: Callable[[Tensor], Sequence[Tensor]], x: Tensor, index: int) -> Tensor:
        if not self._shares:
            return compute(x.contiguous())[0]
        thread = get_ident()
        version = 0 if x.is_inference() else x._version  # it changes when x is changed in place
        previous = self._outputs.pop(thread, None)
        if previous is not None and previous[0] is x and previous[1] == version:
            return previous[2][index]
        results = compute(x.contiguous())
        self._outputs[thread] = (x, version, results)
        return results[index]

    def _run_operator(self, x: Tensor, index: int) -> Tensor:
        """Return the result of one projection by the operator that compilers call, once for all projections of x."""
        previous = self._traced  # not by thread as in `_run_shared`: compilers cannot trace the number of a thread
        if previous is not None and previous[0] is x:
            self._traced = None
            return previous[1][index]
        joined = torch.ops.sparsedial.accelerated_projections.default(x, self.handle)
        if not self._shares:
            return joined
        results = joined.split(self.output_widths, dim=-1)
        self._traced = (x, results)
        return results[index]


class ProjectionPatch(ForwardPatch):
    """Patch that lets `Projections` compute the result of a module until `remove` is called.

    Args:
        module: One of the projections.
        projections: The projections that it belongs to.
    """

    def __init__(self, module: nn.Module, projections: Projections) -> None:
        self._index = projections.modules.index(module)
        super().__init__(module, projections)  # type: ignore[arg-type]  # it is called with other arguments

    def _select_forward(self) -> Callable[..., Any]:
        return self._call

    def _call(self, input: Tensor) -> Tensor:
        if isinstance(self._apply, Projections):
            return self._apply(input, self._index, self._inner)
        return self._inner(input)  # the patch was removed while another one covered it


def call_class_forward(module: nn.Module, x: Tensor) -> Tensor:
    """Call the forward that the class of a projection defines, which the patch of the module replaced.

    Args:
        module: The projection.
        x: Vectors, shape [..., width].

    Returns:
        The result, shape [..., outputs].
    """
    result: Tensor = type(module).forward(module, x)
    return result


def _run_projections(x: Tensor, handle: int) -> Tensor:
    projections = _projections.find(handle)
    if not projections.memory.is_unchanged():  # compiled code does not compare addresses
        return projections.multiply_present_weights(x)
    return projections.decode_joined(x.contiguous())


def _project_fake_tensors(x: Tensor, handle: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], sum(_projections.find(handle).output_widths)))


register_operator("accelerated_projections", "Tensor x, int handle", _run_projections, _project_fake_tensors)
