"""The interface of the kernels of one type of device, and their registry.

`README.md` in this folder describes what a new backend has to provide.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from sparsedial.errors import ModelError
from sparsedial.kernels.dispatch import BoundRule

MAX_DECODE_VECTORS = 8
"""A call with more vectors is prefill."""

BACKEND_MODULES = {
    "cpu": "sparsedial.acceleration.cpu_backend",
    "cuda": "sparsedial.acceleration.cuda_products",
}
"""Module of the backend of each type of device. The module has a function ``make_backend``."""


@dataclass(frozen=True)
class ProductCounts:
    """Counts what the calls of one product have read.

    Attributes:
        calls: Number of calls with at most `MAX_DECODE_VECTORS` vectors.
        dense_calls: How many of them read the whole matrix.
        rows_read: Rows of the matrix that were read, over all calls.
        rows: Rows of the matrix, over all calls.
        kept_entries: Entries of the vectors that were kept and are not zero.
        entries: All entries of the vectors.
        row_bytes: Bytes of one row.
    """

    calls: int
    dense_calls: int
    rows_read: int
    rows: int
    kept_entries: int
    entries: int
    row_bytes: int


@dataclass(frozen=True)
class ProductLimits:
    """When a product reads the whole matrix with the library of the device, because this is faster.

    Attributes:
        largest_share: Largest share of the rows that a call may read with the kernel, for 1, 2, ... vectors. A call
            that keeps more rows reads the whole matrix with the library.
        kernel_vectors: Largest number of vectors for which the kernel multiplies the whole matrix faster than the
            library.
        joins_vectors: True to read a row once for all vectors that need it. False to compute each vector as if it were
            alone, if the bits of the result would otherwise depend on the other vectors.
        kept_share: Share of the entries of a vector that is expected to be kept.
        rule_is_slower: For 1, 2, ... vectors, True if the rule and the kernel do not take clearly less time than a
            product without the rule, for the expected share.
    """

    largest_share: tuple[float, ...] = (1.0,) * MAX_DECODE_VECTORS
    kernel_vectors: int = MAX_DECODE_VECTORS
    joins_vectors: bool = True
    kept_share: float = 0.5
    rule_is_slower: tuple[bool, ...] = (False,) * MAX_DECODE_VECTORS

    def expected_share(self, vectors: int) -> float:
        """Return the share of the rows that independent vectors are expected to need.

        Args:
            vectors: Number of vectors.

        Example:
            >>> ProductLimits(kept_share=0.5).expected_share(2)
            0.75
        """
        return float(1 - (1 - self.kept_share) ** vectors)

    def prefers_library(self, vectors: int) -> bool:
        """Return True if the library multiplies vectors by the whole matrix faster than the kernel.

        Args:
            vectors: Number of vectors.
        """
        if vectors > MAX_DECODE_VECTORS:
            return vectors > self.kernel_vectors
        return self.kernel_vectors == 0 or self.largest_share[vectors - 1] < 1


class KeptInputProduct(Protocol):
    """Function that computes ``x @ weight + bias`` and reads only the rows of the weight that x needs."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors, and count the call.

        Args:
            x: At most `MAX_DECODE_VECTORS` vectors, shape [..., rows], contiguous, of the dtype and on the device of
                the weight. Entries that a rule dropped are zero.

        Returns:
            The product, shape [..., columns]. Equal arguments give equal bits. A row is read if one of the vectors has
            an entry that is not zero, unless the limits demand that the whole matrix is read.
        """
        ...

    def multiply_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply any number of vectors with the whole matrix, without counting the call.

        Args:
            x: Vectors, shape [..., rows].

        Returns:
            The product, shape [..., columns].
        """
        ...

    def counts(self) -> ProductCounts:
        """Return the counts since the last reset. Only this method may wait for the device."""
        ...

    def reset(self) -> None:
        """Set the counts to zero."""
        ...


class KeptOutputProduct(Protocol):
    """Function that computes some entries of ``x @ weight.T + bias`` and reads only their rows of the weight."""

    def __call__(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors, and count the call.

        Args:
            x: At most `MAX_DECODE_VECTORS` vectors, shape [..., columns], contiguous.
            kept: Boolean mask of the entries of the result to compute, shape [..., rows], contiguous.

        Returns:
            The result, shape [..., rows], with zeros where ``kept`` is False.
        """
        ...

    def counts(self) -> ProductCounts:
        """Return the counts since the last reset."""
        ...

    def reset(self) -> None:
        """Set the counts to zero."""
        ...


class DenseProduct(Protocol):
    """Function that computes ``x @ weight.T + bias`` for a few vectors."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors with the whole matrix.

        Args:
            x: At most `MAX_DECODE_VECTORS` vectors, shape [..., columns], contiguous, of the dtype and on the device of
                the weight.

        Returns:
            The result, shape [..., rows]. Equal arguments give equal bits.
        """
        ...


Selector = Callable[[torch.Tensor], torch.Tensor]
"""Function that applies a rule to a few vectors, shape [..., width], contiguous, and returns the sparse vectors."""


@dataclass(frozen=True)
class GatedFormula:
    """Describes a gated FFN as operations on the outputs of the projections that read x, side by side.

    Attributes:
        activation: "silu", "gelu", "gelu_tanh" or "relu".
        width: Number of entries of the intermediate vector.
        up_start: First entry of u.
        gate_start: First entry of the output of the gate.
    """

    activation: str
    width: int
    up_start: int
    gate_start: int


FfnStep = Callable[[torch.Tensor], torch.Tensor]
"""Function that computes an FFN with its rules for at most `MAX_DECODE_VECTORS` vectors, and counts its products."""


class FfnKernels(Protocol):
    """The kernels of whole FFNs."""

    def make_step(
        self,
        formula: GatedFormula,
        products: tuple[KeptInputProduct, KeptInputProduct],
        rules: tuple[BoundRule | None, BoundRule | None],
        dense: tuple[bool, bool] = (False, False),
    ) -> FfnStep | None:
        """Return a function that computes a whole FFN. Its products have the bits of single calls.

        Args:
            formula: The FFN.
            products: The products of x and of the intermediate vector.
            rules: Their rules, or None.
            dense: True for a product that runs without its rule, with the kernel, and is not counted. Defaults to
                False for both.

        Returns:
            The function. None if a rule has no kernel that can be part of it.
        """
        ...

    def activate(self, formula: GatedFormula, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return the intermediate vector, with the bits that it has in a step.

        Args:
            formula: The FFN.
            gate: Outputs of the gate, shape [..., width].
            up: u, shape [..., width].

        Returns:
            u times the activation of the gate, shape [..., width].
        """
        ...


@dataclass(frozen=True)
class Backend:
    """The kernels of one type of device.

    Attributes:
        dtypes: Dtypes that the kernels support on this machine.
        make_selector: Function of a bound rule, the number of entries of a vector and its dtype. It returns a function
            that keeps exactly the entries that the rule keeps.
        make_kept_input_product: Function of the weight, the bias and the limits. The weight has one row per input,
            shape [rows, columns], and its rows are contiguous. The bias has shape [columns], or is None.
        make_kept_output_product: Function of the weight, the bias and the limits. The weight has one row per output,
            shape [rows, columns]. The bias has shape [rows], or is None.
        describe_device: Function that returns a text that identifies what the speed depends on: the processor and the
            number of threads.
        ffn_kernels: The kernels of whole FFNs. None if there are none.
        make_dense_product: Function of the weight and the bias of a linear layer, as for kept outputs. None if the
            library of the device reads a matrix at the rate of the memory.
    """

    dtypes: tuple[torch.dtype, ...]
    make_selector: Callable[[BoundRule, int, torch.dtype], Selector]
    make_kept_input_product: Callable[[torch.Tensor, torch.Tensor | None, ProductLimits], KeptInputProduct]
    make_kept_output_product: Callable[[torch.Tensor, torch.Tensor | None, ProductLimits], KeptOutputProduct]
    describe_device: Callable[[], str]
    ffn_kernels: FfnKernels | None = None
    make_dense_product: Callable[[torch.Tensor, torch.Tensor | None], DenseProduct] | None = None


def load_backend(device: torch.device) -> Backend:
    """Return the kernels of a device.

    Args:
        device: The device of a model.

    Raises:
        ModelError: There are no kernels for this type of device, or a package that they need is not installed.
    """
    if device.type not in BACKEND_MODULES:
        raise ModelError(
            f"accelerate: the model is on the device {str(device)!r}: expected {' or '.join(BACKEND_MODULES)}. Move it "
            "with model.to(...)."
        )
    try:
        backend: Backend = importlib.import_module(BACKEND_MODULES[device.type]).make_backend()
    except ImportError as error:
        raise ModelError(f"accelerate: the kernels for {device.type!r} cannot be imported: {error}") from error
    return backend
