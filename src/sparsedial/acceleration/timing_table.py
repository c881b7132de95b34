"""Measured limits of the products: from where on the whole matrix is read by the library of the device.

The limits depend on the shape, the dtype, the device, and the class of the rule. They are measured once and kept in
the cache of the user, in ``acceleration/limits.json``. To measure again, delete this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, Backend, KeptInputProduct, ProductLimits
from sparsedial.acceleration.call_timing import time_in_turns
from sparsedial.cache_location import cache_folder
from sparsedial.errors import StorageError
from sparsedial.files import write_atomically
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import Rule, TopK

VERSION = 7
"""Version of the kernels. Limits of other versions are measured again."""

MIN_BYTES = 1 << 18  # smaller matrices stay in the caches, and the default limits are used
MIN_LINEAR_BYTES = 1 << 17  # smaller linear layers outside of the FFNs are left to the library
COLD_BYTES = 96 << 20  # memory that is read between two uses of the same matrix, so that it is not in a cache
MAX_COPIES = 128
VECTOR_COUNTS = (1, 2, 4, 8)
PREFILL_COUNTS = (16, 32)
SHARES = (0.5, 1.0)
RULE_CALLS = 16
MIN_GAIN = 0.05  # share of the time of the library that has to be saved: less is within the error of the times
EXPECTED_SHARE = 0.5  # of the entries of a vector that a rule keeps, if nothing is known about them


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
        """
        return cls(tuple(data["dense"]), tuple(data["half"]), tuple(data["full"]), data["kernel_vectors"])

    def largest_share(self, vectors: int) -> float:
        """Return the largest share of the rows for which the kernel is not slower than the library.

        Args:
            vectors: Number of vectors.
        """
        index = _column(vectors)
        share = 1 + (self.dense[index] - self.full[index]) / self._slope(index)
        return round(min(max(share, 0.0), 1.0), 3)

    def is_slower(self, vectors: int, share: float, rule_seconds: float) -> bool:
        """Return True if a rule and the kernel do not take clearly less time than a dense product.

        Args:
            vectors: Number of vectors.
            share: Share of the rows that the kernel reads.
            rule_seconds: Seconds of the rule.
        """
        index = _column(vectors)
        kernel = self.full[index] - (1 - share) * self._slope(index)
        return rule_seconds + kernel >= (1 - MIN_GAIN) * min(self.dense[index], self.full[index])

    def _slope(self, index: int) -> float:
        """Return the additional seconds if the kernel reads all rows instead of none. They grow linearly."""
        return max((self.full[index] - self.half[index]) / (SHARES[1] - SHARES[0]), 1e-12)


class LimitTable:
    """The limits of the products of one device.

    Args:
        backend: The kernels of the device.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._device = backend.describe_device()

    def find_limits(
        self,
        weight: torch.Tensor,
        rule: BoundRule | None = None,
        kept_share: float = 1.0,
        times_rule: bool = False,
    ) -> ProductLimits:
        """Return the limits of a product, which are measured if they are not known yet.

        Args:
            weight: The matrix, one row per input, shape [rows, columns].
            rule: The rule for the vectors. Defaults to None: there is none.
            kept_share: Share of the entries that are not zero in vectors without a rule. Defaults to 1.
            times_rule: True to find out when the rule and the kernel are slower than a dense product. Defaults to
                False.
        """
        if weight.numel() * weight.element_size() < MIN_BYTES:
            return ProductLimits()
        dtype = str(weight.dtype).removeprefix("torch.")
        rows, columns = weight.shape
        entry = self._find(f"{dtype}, {rows} x {columns}", lambda: asdict(measure_product(weight, self._backend)))
        times = ProductTimes.from_json(entry)
        counts = range(1, MAX_DECODE_VECTORS + 1)
        largest_share = tuple(map(times.largest_share, counts))
        limits = ProductLimits(largest_share, times.kernel_vectors, kept_share=kept_share)
        if rule is None:
            return limits
        limits = replace(limits, kept_share=expect_kept_share(rule))
        if not times_rule:
            return limits
        name = f"{dtype}, {type(rule.rule).__name__} of {rows}"
        rule_seconds = self._find(name, lambda: measure_rule(weight, rule, self._backend))
        is_slower = []
        for vectors in counts:
            share = limits.expected_share(vectors)
            is_slower.append(times.is_slower(vectors, share, rule_seconds[_column(vectors)]))
        return replace(limits, rule_is_slower=tuple(is_slower))

    def find_linear_vectors(self, weight: torch.Tensor, overhead: float = 0.0) -> frozenset[int]:
        """Return for which numbers of vectors the kernel computes a linear layer faster than the library.

        Args:
            weight: The weight of the layer, shape [outputs, inputs].
            overhead: Seconds that a call of the kernel takes in addition to those that are measured. Defaults to 0.
        """
        if weight.numel() * weight.element_size() < MIN_LINEAR_BYTES or self._backend.make_dense_product is None:
            return frozenset()
        dtype = str(weight.dtype).removeprefix("torch.")
        outputs, inputs = weight.shape
        times = self._find(
            f"{dtype}, linear layer of {inputs} x {outputs}", lambda: measure_linear_layer(weight, self._backend)
        )
        faster = set()
        for vectors in range(1, MAX_DECODE_VECTORS + 1):
            kernel, library = (times[name][_column(vectors)] for name in ("kernel", "library"))
            if kernel + overhead < (1 - MIN_GAIN) * library:
                faster.add(vectors)
        return frozenset(faster)

    def _find(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return an entry of the table, which is measured if it is missing."""
        key = f"{VERSION}, {self._device}, {name}"
        path = _table_path()
        table = _read_table(path)
        if key not in table:
            entry = measure()
            table = _read_table(path)  # another process may have added entries
            table[key] = entry
            if path is not None:
                with suppress(OSError, StorageError):  # without a cache, the limits are measured again
                    write_atomically(path, json.dumps(table, indent=1).encode(), replace=True)
        return table[key]


def expect_kept_share(rule: BoundRule) -> float:
    """Return the share of the entries that a rule is expected to keep. Only top-k determines it.

    Args:
        rule: The rule.
    """
    if isinstance(rule.rule, TopK):
        return rule.rule.value
    if isinstance(rule.rule, Rule) and rule.rule.value == rule.rule.dense_value:
        return 1.0
    return EXPECTED_SHARE


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
    for copied in _copy_weight(weight):
        products.append(backend.make_kept_input_product(copied, None, ProductLimits()))
        libraries.append(backend.make_kept_input_product(copied, None, ProductLimits(kernel_vectors=0)))
    measured = []
    for vectors in VECTOR_COUNTS:
        calls: list[Callable[[], None]] = [_repeat(libraries, _make_vectors(weight, vectors, 1.0), dense=True)]
        calls += [_repeat(products, _make_vectors(weight, vectors, share), dense=False) for share in SHARES]
        measured.append([seconds / len(products) for seconds in time_in_turns(calls, weight.device)])
    dense, half, full = (tuple(column) for column in zip(*measured, strict=True))
    return ProductTimes(dense, half, full, _measure_kernel_vectors(weight, backend, products, libraries))


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


def _column(vectors: int) -> int:
    """Return the index in `VECTOR_COUNTS` of a number of vectors, rounded up to a power of two."""
    return VECTOR_COUNTS.index(1 << (vectors - 1).bit_length())


def _measure_kernel_vectors(
    weight: torch.Tensor,
    backend: Backend,
    products: Sequence[KeptInputProduct],
    libraries: Sequence[KeptInputProduct],
) -> int:
    """Return the largest number of vectors for which the kernel multiplies the whole matrix faster."""
    limit = MAX_DECODE_VECTORS
    unlimited = [
        backend.make_kept_input_product(product.weight, None, ProductLimits(kernel_vectors=PREFILL_COUNTS[-1]))  # type: ignore[attr-defined]
        for product in products
    ]
    for vectors in PREFILL_COUNTS:
        x = _make_vectors(weight, vectors, 1.0)
        kernel, library = time_in_turns(
            [_repeat(unlimited, x, dense=True), _repeat(libraries, x, dense=True)], weight.device
        )
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


def _table_path() -> Path | None:
    try:
        return cache_folder("acceleration") / "limits.json"
    except StorageError:
        return None  # without a cache, the limits are measured again


def _read_table(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
