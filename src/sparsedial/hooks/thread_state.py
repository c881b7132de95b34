"""State that belongs to one of several threads that call a model at the same time."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

import torch

Value = TypeVar("Value")


def current_thread() -> int:
    """Return the identifier of the present thread. Code that is being compiled cannot read it, and gets 0."""
    if torch.compiler.is_dynamo_compiling():
        return 0
    return threading.get_ident()


class ThreadValue(Generic[Value]):
    """Value that each thread sets for itself, and None in a thread that did not set it.

    Code that is being compiled reads the value that was set last, because it does not know its thread.
    """

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._latest: Value | None = None

    def get(self) -> Value | None:
        """Return the value of the present thread."""
        if torch.compiler.is_dynamo_compiling():
            return self._latest
        if not self._values:
            return None
        return self._values.get(threading.get_ident())

    def set(self, value: Value | None) -> None:
        """Set the value of the present thread.

        Args:
            value: The value. None removes it.
        """
        self._latest = value
        if value is None:
            self._values.pop(threading.get_ident(), None)
        else:
            self._values[threading.get_ident()] = value
