"""The linear layers outside of the accelerated FFNs, whose weights are read completely.

In a decode step on a CPU, PyTorch reads the float32 weights of attention and of the output layer at less than half of
the rate of the memory. A dense kernel reads them at this rate. Nothing is skipped, and the layout of the weights stays
as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sparsedial.acceleration.backend import Backend, DenseProduct
from sparsedial.acceleration.operators import register_operator
from sparsedial.acceleration.supported_models import describe_problem
from sparsedial.acceleration.timing_table import LimitTable
from sparsedial.ffn.feed_forward import FFN
from sparsedial.hooks.module_patch import ForwardPatch
from sparsedial.kernels.dispatcher_observers import dispatcher_is_unobserved, kernel_can_read
from sparsedial.kernels.operator_handles import Handles
from sparsedial.tracing_state import is_tracing

COMPILED_CALL_SECONDS = 5e-5
"""Additional time of a call by compiled code: it goes through PyTorch's dispatcher, and the code of PyTorch's own
products has no Python in it. On a Xeon, 40 to 80 microseconds were measured."""

_layers: Handles[LinearLayer] = Handles()


def patch_linear_layers(
    model: nn.Module, ffns: Sequence[FFN], backend: Backend, limits: LimitTable
) -> Iterator[ForwardPatch]:
    """Let the dense kernel compute linear layers in decode steps, where it is faster than PyTorch.

    Args:
        model: The model.
        ffns: FFNs whose projections are computed by other kernels.
        backend: The kernels of the device of the FFNs.
        limits: The measured limits of this device.

    Yields:
        ForwardPatch: The patch of a layer.
    """
    if backend.make_dense_product is None:
        return
    projections: set[nn.Module] = set()
    for ffn in ffns:
        projections.update((*ffn.input_projections, ffn.down))
    for module in model.modules():
        if type(module) is not nn.Linear or module in projections or not _is_supported(module, backend):
            continue
        vectors = limits.find_linear_vectors(module.weight)
        if vectors:
            compiled_vectors = limits.find_linear_vectors(module.weight, COMPILED_CALL_SECONDS)
            yield LinearPatch(module, LinearLayer(module, backend.make_dense_product, vectors, compiled_vectors))


def _is_supported(module: nn.Linear, backend: Backend) -> bool:
    """Return True if the kernel can read the weight of a layer. It may be tied to an embedding."""
    if describe_problem(module) is not None or "forward" in vars(module):
        return False
    weight = module.weight
    if not weight.is_cpu or weight.dtype not in backend.dtypes or weight.numel() == 0 or weight.stride(1) != 1:
        return False
    return module.bias is None or (module.bias.dtype is weight.dtype and module.bias.is_contiguous())


class LinearLayer:
    """A linear layer, computed by the dense kernel for a few vectors.

    Args:
        module: The layer.
        make_product: Function that makes the dense product of the device.
        vectors: Numbers of vectors for which the kernel is used.
        compiled_vectors: The same in compiled code.

    Attributes:
        handle: Number by which compiled code finds this object.
    """

    def __init__(
        self,
        module: nn.Linear,
        make_product: Callable[[Tensor, Tensor | None], DenseProduct],
        vectors: frozenset[int],
        compiled_vectors: frozenset[int],
    ) -> None:
        self._parameters: dict[str, Any] = module._parameters
        bias = None if module.bias is None else module.bias.detach()
        self._product = make_product(module.weight.detach(), bias)
        self._dtype = module.weight.dtype
        # The product keeps the weight and the bias in memory, so no other tensors get their addresses.
        self._memory = _describe_memory(self._parameters)
        self._inputs = module.in_features
        # A tuple, because numbers that torch.compile does not know when it compiles cannot be looked up in a set.
        self._entries = tuple(count * module.in_features for count in sorted(vectors))
        self._compiled_entries = tuple(count * module.in_features for count in sorted(compiled_vectors))
        self.handle = _layers.add(self)

    def __call__(self, x: Tensor, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result of the layer.

        Args:
            x: The vectors, shape [..., inputs].
            inner: The forward of the module.
        """
        if type(x) is not Tensor:
            return inner(x)
        if torch.compiler.is_compiling():
            entries = self._compiled_entries
        elif kernel_can_read(x):
            entries = self._entries
        else:
            return inner(x)
        # The length comes first, because compiled code compares all attributes that are read here before each step.
        if x.numel() not in entries or x.dtype is not self._dtype or not x.is_cpu:
            return inner(x)
        if x.shape[-1:] != (self._inputs,) or is_tracing():
            return inner(x)
        if "weight" not in self._parameters or "bias" not in self._parameters:  # pruned or parametrized since then
            return inner(x)
        if torch.is_autocast_enabled("cpu"):  # the result has another dtype
            return inner(x)
        if torch.is_grad_enabled() and self._needs_gradient(x):
            return inner(x)
        if not dispatcher_is_unobserved():
            return torch.ops.sparsedial.dense_linear_layer.default(x, self.handle)
        return self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        """Return the result of the layer, by the kernel unless the module has got another weight or bias.

        Args:
            x: Vectors, shape [..., inputs].
        """
        if _describe_memory(self._parameters) == self._memory:
            return self._product(x.contiguous())
        return linear(x, self._parameters["weight"], self._parameters["bias"])

    @property
    def outputs(self) -> int:
        """Number of entries of the result of one vector."""
        return int(self._parameters["weight"].shape[0])

    def _needs_gradient(self, x: Tensor) -> bool:
        return x.requires_grad or any(
            parameter is not None and parameter.requires_grad for parameter in self._parameters.values()
        )


class LinearPatch(ForwardPatch):
    """Patch that lets `LinearLayer` compute the result of a module until `remove` is called.

    Args:
        module: The layer.
        layer: What computes it.
    """

    def __init__(self, module: nn.Linear, layer: LinearLayer) -> None:
        super().__init__(module, layer)  # type: ignore[arg-type]  # it is called with other arguments

    def _select_forward(self) -> Callable[..., Any]:
        return self._call

    def _call(self, input: Tensor) -> Tensor:
        if isinstance(self._apply, LinearLayer):
            return self._apply(input, self._inner)
        return self._inner(input)  # the patch was removed while another one covered it


def _describe_memory(parameters: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return where the weight and the bias of a layer are. None if they are no plain parameters."""
    weight = parameters["weight"]
    bias = parameters["bias"]
    if type(weight) is not nn.Parameter:
        return None
    address = weight.data_ptr(), weight.dtype, weight.shape, weight.stride()
    if bias is None:
        return address
    if type(bias) is not nn.Parameter:
        return None
    return *address, bias.data_ptr(), bias.dtype, bias.shape, bias.stride()


def _run_layer(x: Tensor, handle: int) -> Tensor:
    return _layers.find(handle).compute(x)


def _compute_fake_tensors(x: Tensor, handle: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], _layers.find(handle).outputs))


register_operator("dense_linear_layer", "Tensor x, int handle", _run_layer, _compute_fake_tensors)
