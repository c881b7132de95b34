"""Numbers by which the arguments of an operator name Python objects, because an operator takes no other objects."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Generic, TypeVar
from weakref import ReferenceType, ref

T = TypeVar("T")


class Handles(Generic[T]):
    """Table of objects by number, which does not keep the objects in memory.

    A decode step looks up every FFN. `weakref.WeakValueDictionary` does it in Python code.

    Example:
        >>> from sparsedial.rules import TopP
        >>> handles = Handles()
        >>> rule = TopP(0.9)
        >>> handle = handles.add(rule)
        >>> handles.find(handle) is rule
        True
    """

    def __init__(self) -> None:
        self._next = count()
        self._references: dict[int, ReferenceType[T]] = {}

    def add(self, value: T) -> int:
        """Return a new number for an object.

        Args:
            value: The object, which weak references can refer to.
        """
        handle = next(self._next)
        self._references[handle] = ref(value, partial(self._references.pop, handle))
        return handle

    def find(self, handle: int) -> T:
        """Return the object of a number.

        Args:
            handle: The number.
        """
        value = self._references[handle]()
        assert value is not None  # the caller of the operator refers to it
        return value
