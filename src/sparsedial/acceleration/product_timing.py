"""The times of products and rules on this machine, by the kernels and by the library of the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, Backend, KeptInputProduct, ProductLimits
from sparsedial.acceleration.call_timing import time_in_turns
from sparsedial.kernels.dispatch import BoundRule

COLD_BYTES = 96 << 20  # memory that is read between two uses of the same matrix, so that it is not in a cache
MAX_COPIES = 128
VECTOR_COUNTS = (1, 2, 4, 8)
PREFILL_COUNTS = (16, 32)
SHARES = (0.5, 1.0)
RULE_CALLS = 16
MIN_GAIN = 0.05  # share of the time of the library that has to be saved: less is within the error of the times


@dataclass(frozen=True)
class ProductTimes:
    """The measured times of one product. Each tuple has one entry per number of vectors in `VECTOR_COUNTS`.

    Attributes:
        dense: Seconds of the library, which reads the whole matrix.
        half: Seconds of the kernel if it reads half of the rows.
        full: Seconds of the kernel if it reads all rows.
        kernel_vectors: Largest number of vectors for which the kernel multiplies the whole matrix faster.
    """

    dense: tuple[float, ...]
    half: tuple[float, ...]
    full: tuple[float, ...]
    kernel_vectors: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProductTimes:
        """Return the times that an entry of the table describes.

        Args:
            data: The entry.

        Raises:
            KeyError: A value is missing.
            TypeError: The entry or a value has another type.
            ValueError: There is another number of times.
        """
        dense, half, full = (read_seconds(data[name]) for name in ("dense", "half", "full"))
        return cls(dense, half, full, int(data["kernel_vectors"]))

    def largest_share(self, vectors: int) -> float:
        """Return the largest share of the rows for which the kernel is not slower than the library.

        Args:
            vectors: Number of vectors.
        """
        index = find_column(vectors)
        share = 1 + (self.dense[index] - self.full[index]) / self._slope(index)
        return round(min(max(share, 0.0), 1.0), 3)

    def is_slower(self, vectors: int, share: float, rule_seconds: float) -> bool:
        """Return True if a rule and the kernel do not take clearly less time than a dense product.

        Args:
            vectors: Number of vectors.
            share: Share of the rows that the kernel reads.
            rule_seconds: Seconds of the rule.
        """
        index = find_column(vectors)
        kernel = self.full[index] - (1 - share) * self._slope(index)
        return rule_seconds + kernel >= (1 - MIN_GAIN) * min(self.dense[index], self.full[index])

    def _slope(self, index: int) -> float:
        """Return the additional seconds if the kernel reads all rows instead of none. They grow linearly."""
        return max((self.full[index] - self.half[index]) / (SHARES[1] - SHARES[0]), 1e-12)


def read_seconds(values: Any) -> tuple[float, ...]:
    """Return the times of a list of the table.

    Args:
        values: The list.

    Returns:
        Seconds, one entry per number of vectors in `VECTOR_COUNTS`.

    Raises:
        TypeError: This is no list of numbers.
        ValueError: There is another number of times.
    """
    seconds = tuple(map(float, values))
    if len(seconds) != len(VECTOR_COUNTS):
        raise ValueError(f"{len(seconds)} times: expected {len(VECTOR_COUNTS)}")
    return seconds


def read_linear_times(data: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return the times of a linear layer that an entry of the table describes.

    Args:
        data: The entry.

    Returns:
        Seconds of "kernel" and "library".

    Raises:
        KeyError: A value is missing.
        TypeError: The entry or a value has another type.
        ValueError: There is another number of times.
    """
    return {name: read_seconds(data[name]) for name in ("kernel", "library")}


def measure_product(weight: torch.Tensor, backend: Backend) -> ProductTimes:
    """Time a product with the kernel and with the library.

    Args:
        weight: The matrix, one row per input, shape [rows, columns].
        backend: The kernels.

    Returns:
        The times.
    """
    products = []
    libraries = []
    copies = _copy_weight(weight)
    for copied in copies:
        products.append(backend.make_kept_input_product(copied, None, ProductLimits()))
        libraries.append(backend.make_kept_input_product(copied, None, ProductLimits(kernel_vectors=0)))
    measured = []
    for vectors in VECTOR_COUNTS:
        calls: list[Callable[[], None]] = [_repeat(libraries, _make_vectors(weight, vectors, 1.0), dense=True)]
        calls += [_repeat(products, _make_vectors(weight, vectors, share), dense=False) for share in SHARES]
        measured.append([seconds / len(products) for seconds in time_in_turns(calls, weight.device)])
    dense, half, full = (tuple(column) for column in zip(*measured, strict=True))
    return ProductTimes(dense, half, full, _measure_kernel_vectors(backend, copies, libraries))


def measure_linear_layer(weight: torch.Tensor, backend: Backend) -> dict[str, list[float]]:
    """Time a linear layer with the kernel and with the library.

    Args:
        weight: The weight of the layer, shape [outputs, inputs].
        backend: The kernels.

    Returns:
        Seconds of "kernel" and "library", one entry per number of vectors in `VECTOR_COUNTS`.
    """
    assert backend.make_dense_product is not None  # `find_linear_vectors` has checked it
    copies = _copy_weight(weight.detach())
    products = [backend.make_dense_product(copied, None) for copied in copies]
    times: dict[str, list[float]] = {"kernel": [], "library": []}
    for vectors in VECTOR_COUNTS:
        x = weight.new_ones(vectors, weight.shape[1])

        def run_kernel(x: torch.Tensor = x) -> None:
            for product in products:
                product(x)

        def run_library(x: torch.Tensor = x) -> None:
            for copied in copies:
                linear(x, copied)

        for name, seconds in zip(times, time_in_turns([run_kernel, run_library], weight.device), strict=True):
            times[name].append(seconds / len(copies))
    return times


def measure_rule(weight: torch.Tensor, rule: BoundRule, backend: Backend) -> list[float]:
    """Time a rule.

    Args:
        weight: The matrix that the vectors are multiplied by, one row per input.
        rule: The rule.
        backend: The kernels.

    Returns:
        Seconds, one entry per number of vectors in `VECTOR_COUNTS`.
    """
    select = backend.make_selector(rule, weight.shape[0], weight.dtype)
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for vectors in VECTOR_COUNTS:
        xs = torch.randn(RULE_CALLS, vectors, weight.shape[0], generator=generator).to(weight.dtype).to(weight.device)

        def call(xs: Sequence[torch.Tensor] = xs.unbind(0)) -> None:
            for x in xs:
                select(x)

        seconds.append(time_in_turns([call], weight.device)[0] / RULE_CALLS)
    return seconds


def find_column(vectors: int) -> int:
    """Return the index in `VECTOR_COUNTS` of a number of vectors, rounded up to a power of two.

    Args:
        vectors: Number of vectors, at most `MAX_DECODE_VECTORS`.
    """
    return VECTOR_COUNTS.index(1 << (vectors - 1).bit_length())


def _copy_weight(weight: torch.Tensor) -> list[torch.Tensor]:
    """Return copies of a matrix, so many that none is in a cache when it is used again. At most `MAX_COPIES`.

    Their rows have the distance of those of the matrix, because it makes a difference to the time.

    A matrix of `COLD_BYTES` replaces the contents of the caches by itself, and a copy may not fit into the memory.
    """
    size = weight.numel() * weight.element_size()
    if size >= COLD_BYTES:
        return [weight] * 2
    columns = weight.shape[1]
    stride = weight.stride(0)
    if weight.stride(1) != 1 or not columns <= stride <= 2 * columns:
        stride = columns
    copies = []
    for _ in range(min(max(2, COLD_BYTES // size), MAX_COPIES)):
        copies.append(weight.new_empty_strided(weight.shape, (stride, 1)).copy_(weight))
    return copies


def _measure_kernel_vectors(
    backend: Backend, copies: Sequence[torch.Tensor], libraries: Sequence[KeptInputProduct]
) -> int:
    """Return the largest number of vectors for which the kernel multiplies the whole matrix faster."""
    limit = MAX_DECODE_VECTORS
    unlimited = ProductLimits(kernel_vectors=PREFILL_COUNTS[-1])
    kernels = [backend.make_kept_input_product(copied, None, unlimited) for copied in copies]
    for vectors in PREFILL_COUNTS:
        x = _make_vectors(copies[0], vectors, 1.0)
        kernel, library = time_in_turns([_repeat(kernels, x, dense=True), _repeat(libraries, x, dense=True)], x.device)
        if kernel > library:
            break
        limit = vectors
    return limit


def _make_vectors(weight: torch.Tensor, vectors: int, share: float) -> torch.Tensor:
    """Return vectors of ones in which the same share of the entries is not zero, at random places."""
    rows = weight.shape[0]
    x = weight.new_zeros(vectors, rows)
    x[:, torch.randperm(rows, generator=torch.Generator().manual_seed(0))[: round(share * rows)].to(x.device)] = 1
    return x


def _repeat(products: Sequence[Any], x: torch.Tensor, *, dense: bool) -> Callable[[], None]:
    def call() -> None:
        for product in products:
            if dense:
                product.multiply_dense(x)
            else:
                product(x)

    return call
