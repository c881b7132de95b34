"""The option ``batch`` of tasks. It changes scores by rounding only, so it is no part of their identity."""

from __future__ import annotations

import copy
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from sparsedial.inference.batch_size import default_rows
from sparsedial.models.loading import LanguageModel

TaskT = TypeVar("TaskT")

AUTOMATIC = "auto"
"""Value of the option with which the number of rows is chosen automatically, as without the option."""


@runtime_checkable
class BatchedTask(Protocol):
    """Interface of tasks whose number of rows per forward pass can be chosen."""

    def batch_rows(self, lm: LanguageModel) -> int:
        """Return the number of rows per forward pass: the option of the task or, without it, the default.

        Args:
            lm: The model, on its device.
        """
        ...

    def with_batch(self, rows: int) -> Self:
        """Return a task that differs only in its number of rows per forward pass.

        Args:
            rows: Maximum number of rows per forward pass.
        """
        ...


class BatchOption:
    """Base class of frozen dataclasses with a field ``batch``. It implements `BatchedTask`.

    Attributes:
        batch: Maximum number of rows per forward pass. None means the default of the device.
    """

    batch: int | None

    def batch_rows(self, lm: LanguageModel) -> int:
        """Return the number of rows per forward pass: the option of the task or, without it, the default.

        Args:
            lm: The model, on its device.
        """
        return self.batch or default_rows(lm.device)

    def with_batch(self, rows: int) -> Self:
        """Return a task that differs only in its number of rows per forward pass.

        Args:
            rows: Maximum number of rows per forward pass.
        """
        return copy_with(self, batch=rows)


def copy_with(task: TaskT, **fields: Any) -> TaskT:
    """Return a copy of a frozen dataclass with other fields, but without checking its options or reading data again.

    Args:
        task: The task.
        **fields: Fields of the copy that differ.
    """
    changed = copy.copy(task)
    for name, value in fields.items():
        object.__setattr__(changed, name, value)
    return changed
