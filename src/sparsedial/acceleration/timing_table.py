"""Measured limits of the products: from where on the whole matrix is read by the library of the device.

The limits depend on the shape, the dtype and the device. They are measured once and kept in the cache of the user, in
``acceleration/limits.json``. To measure again, delete this file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, Backend, KeptInputProduct, ProductLimits
from sparsedial.cache_location import cache_folder
from sparsedial.errors import StorageError
from sparsedial.files import write_atomically

VERSION = 1
"""Version of the kernels. Limits of other versions are measured again."""

MIN_BYTES = 1 << 18  # smaller matrices stay in the caches, and the default limits are used
COLD_BYTES = 96 << 20  # memory that is read between two uses of the same matrix, so that it is not in a cache
VECTOR_COUNTS = (1, 2, 4, 8)
PREFILL_COUNTS = (16, 32)
SHARES = (0.5, 1.0)
REPEATS = 5


class LimitTable:
    """The limits of the products of one device.

    Args:
        backend: The kernels of the device.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._device = backend.describe_device()

    def find_limits(self, weight: torch.Tensor) -> ProductLimits:
        """Return the limits of a product, which are measured if they are not known yet.

        Args:
            weight: The matrix, one row per input, shape [rows, columns].
        """
        if weight.numel() * weight.element_size() < MIN_BYTES:
            return ProductLimits()
        dtype = str(weight.dtype).removeprefix("torch.")
        key = f"{VERSION}, {self._device}, {dtype}, {weight.shape[0]} x {weight.shape[1]}"
        path = _table_path()
        table = _read_table(path)
        if key not in table:
            limits = measure_limits(weight, self._backend)
            table = _read_table(path)  # another process may have added entries
            table[key] = {"largest_share": limits.largest_share, "kernel_vectors": limits.kernel_vectors}
            if path is not None:
                write_atomically(path, json.dumps(table, indent=1).encode(), replace=True)
        entry = table[key]
        return ProductLimits(tuple(entry["largest_share"]), entry["kernel_vectors"])


def measure_limits(weight: torch.Tensor, backend: Backend) -> ProductLimits:
    """Measure from where on the library is faster than the kernel.

    The time of the kernel grows linearly with the share of the rows that it reads, so two shares are timed.

    Args:
        weight: The matrix, one row per input, shape [rows, columns].
        backend: The kernels.

    Returns:
        The limits.
    """
    copies = max(2, COLD_BYTES // (weight.numel() * weight.element_size()))
    products = []
    libraries = []
    for _ in range(min(copies, 64)):
        copied = weight.clone()
        products.append(backend.make_kept_input_product(copied, None, ProductLimits()))
        libraries.append(backend.make_kept_input_product(copied, None, ProductLimits(kernel_vectors=0)))
    measured = {}
    for vectors in VECTOR_COUNTS:
        calls: list[Callable[[], None]] = [_repeat(libraries, _make_vectors(weight, vectors, 1.0), dense=True)]
        calls += [_repeat(products, _make_vectors(weight, vectors, share), dense=False) for share in SHARES]
        library, *kernel = _time_in_turns(calls, weight.device)
        slope = max((kernel[1] - kernel[0]) / (SHARES[1] - SHARES[0]), 1e-12)
        share = SHARES[1] + (library - kernel[1]) / slope
        measured[vectors] = min(max(share, 0.0), 1.0)
    largest_share = []
    for vectors in range(1, MAX_DECODE_VECTORS + 1):
        padded = 1 << (vectors - 1).bit_length()
        largest_share.append(round(measured[padded], 3))
    return ProductLimits(tuple(largest_share), _measure_kernel_vectors(weight, backend, products, libraries))


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
        kernel, library = _time_in_turns(
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


def _time_in_turns(calls: Sequence[Callable[[], None]], device: torch.device) -> list[float]:
    """Return the shortest time of each call. Other work on the machine makes all other times longer."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(REPEATS):
        for index, call in enumerate(calls):
            _synchronize(device)
            start = time.perf_counter()
            call()
            _synchronize(device)
            times[index].append(time.perf_counter() - start)
    return [min(values) for values in times]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _table_path() -> Path | None:
    try:
        return cache_folder("acceleration") / "limits.json"
    except StorageError:
        return None  # without a cache, the limits are measured again


def _read_table(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        table: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return table
