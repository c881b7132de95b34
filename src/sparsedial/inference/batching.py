"""Batching of sequences of equal length, and restoring the original order of the results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


def batch_equal_lengths(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of each batch. All sequences of a batch have the same length. The longest come first.

    Args:
        lengths: Length of each sequence in tokens.
        max_tokens: Maximum number of tokens per batch. A longer sequence gets a batch of its own.

    Yields:
        list[int]: Indices of the sequences of one batch.

    >>> list(batch_equal_lengths([2, 3, 2, 2], 4))
    [[1], [0, 2], [3]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch:
            is_full = (len(batch) + 1) * lengths[index] > max_tokens
            if is_full or lengths[batch[0]] != lengths[index]:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch


def values_in_key_order(values: Mapping[Any, T]) -> list[T]:
    """Return values in the order of their keys.

    Args:
        values: Values by index, or by another sortable key, in any order.

    Returns:
        The values.

    >>> values_in_key_order({2: "c", 0: "a", 1: "b"})
    ['a', 'b', 'c']
    """
    return [values[key] for key in sorted(values)]


def regroup(values: Iterable[T], groups: Iterable[Sequence[Any]]) -> list[list[T]]:
    """Split a flat series of values into groups of given sizes.

    Args:
        values: One value per member of all groups, in order.
        groups: Groups that have the sizes to split into. Their members are not used.

    Returns:
        One list of values per group.

    >>> regroup([1, 2, 3], ["ab", "", "c"])
    [[1, 2], [], [3]]
    """
    iterator = iter(values)
    return [list(islice(iterator, len(group))) for group in groups]
