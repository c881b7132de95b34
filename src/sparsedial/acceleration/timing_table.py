"""Measured limits of the products: from where on the whole matrix is read by the library of the device.

The limits depend on the shape, the dtype, the device, and the class of the rule. They are measured once and kept in
the cache of the user, in ``acceleration/limits.json``. To measure again, delete this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, Backend, ProductLimits
from sparsedial.acceleration.product_timing import (
    MIN_GAIN,
    ProductTimes,
    find_column,
    measure_linear_layer,
    measure_product,
    measure_rule,
    read_linear_times,
    read_seconds,
)
from sparsedial.cache_location import cache_folder
from sparsedial.dtype_names import dtype_name
from sparsedial.errors import StorageError
from sparsedial.files import write_atomically
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import Rule, TopK

VERSION = 7
"""Version of the kernels. Limits of other versions are measured again."""

MIN_BYTES = 1 << 18  # smaller matrices stay in the caches, and the default limits are used
MIN_LINEAR_BYTES = 1 << 17  # smaller linear layers outside of the FFNs are left to the library
EXPECTED_SHARE = 0.5  # of the entries of a vector that a rule keeps, if nothing is known about them

_Times = TypeVar("_Times")


class LimitTable:
    """The limits of the products of one device.

    Args:
        backend: The kernels of the device.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._device = backend.describe_device()
        self._path = _table_path()
        self._table = _read_table(self._path)

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
        dtype = dtype_name(weight.dtype)
        rows, columns = weight.shape
        times = self._find(
            f"{dtype}, {rows} x {columns}",
            lambda: asdict(measure_product(weight, self._backend)),
            ProductTimes.from_json,
        )
        counts = range(1, MAX_DECODE_VECTORS + 1)
        largest_share = tuple(map(times.largest_share, counts))
        limits = ProductLimits(largest_share, times.kernel_vectors, kept_share=kept_share)
        if rule is None:
            return limits
        limits = replace(limits, kept_share=expect_kept_share(rule))
        if not times_rule:
            return limits
        name = f"{dtype}, {type(rule.rule).__name__} of {rows}"
        rule_seconds = self._find(name, lambda: measure_rule(weight, rule, self._backend), read_seconds)
        is_slower = []
        for vectors in counts:
            share = limits.expected_share(vectors)
            is_slower.append(times.is_slower(vectors, share, rule_seconds[find_column(vectors)]))
        return replace(limits, rule_is_slower=tuple(is_slower))

    def find_linear_vectors(self, weight: torch.Tensor, overhead: float = 0.0) -> frozenset[int]:
        """Return for which numbers of vectors the kernel computes a linear layer faster than the library.

        Args:
            weight: The weight of the layer, shape [outputs, inputs].
            overhead: Seconds that a call of the kernel takes in addition to those that are measured. Defaults to 0.
        """
        if weight.numel() * weight.element_size() < MIN_LINEAR_BYTES or self._backend.make_dense_product is None:
            return frozenset()
        dtype = dtype_name(weight.dtype)
        outputs, inputs = weight.shape
        times = self._find(
            f"{dtype}, linear layer of {inputs} x {outputs}",
            lambda: measure_linear_layer(weight, self._backend),
            read_linear_times,
        )
        faster = set()
        for vectors in range(1, MAX_DECODE_VECTORS + 1):
            kernel, library = (times[name][find_column(vectors)] for name in ("kernel", "library"))
            if kernel + overhead < (1 - MIN_GAIN) * library:
                faster.add(vectors)
        return frozenset(faster)

    def _find(self, name: str, measure: Callable[[], Any], read: Callable[[Any], _Times]) -> _Times:
        """Return an entry of the table, which is measured if it is missing or damaged."""
        key = f"{VERSION}, {self._device}, {name}"
        with suppress(KeyError, TypeError, ValueError):
            return read(self._table[key])
        entry = measure()
        self._table = {**_read_table(self._path), key: entry}  # another process may have added entries
        if self._path is not None:
            with suppress(OSError, StorageError):  # without a cache, the limits are measured again
                write_atomically(self._path, json.dumps(self._table, indent=1).encode(), replace=True)
        return read(entry)


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
